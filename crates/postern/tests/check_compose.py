"""Validates a compose file: python check_compose.py <schema.json> <docker-compose.yml>."""

import json
import sys

import jsonschema
import yaml

schema_path, compose_path = sys.argv[1:]
with open(schema_path, encoding="utf-8") as file:
    schema = json.load(file)
with open(compose_path, encoding="utf-8") as file:
    compose = yaml.safe_load(file)

validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft7Validator)
validator_class.check_schema(schema)
errors = sorted(validator_class(schema).iter_errors(compose), key=lambda error: list(map(str, error.absolute_path)))
for error in errors:
    place = "/".join(map(str, error.absolute_path)) or "(root)"
    print(f"{compose_path}: {place}: {error.message}", file=sys.stderr)
sys.exit(1 if errors else 0)
