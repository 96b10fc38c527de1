"""Holds the pipelines' integrations, and the examples of them in the documents, to the published schemas.

Usage: pipeline_schemas.py <integrations> <document>...

<integrations> is the folder with github/action.yml and gitlab/postern.yml. The schemas are those that check-jsonschema
ships: `github-actions`, `github-workflows` and `gitlab-ci`. Every YAML block of a document is a pipeline for one of the two.
Prints one line per document that was held to a schema; exits 1 with all that is wrong.
"""

import functools
import importlib.util
import json
import pathlib
import re
import sys

import jsonschema
import yaml
from jsonschema.exceptions import best_match

BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
wrong = []


@functools.cache
def validator(schema):
    [package] = importlib.util.find_spec("check_jsonschema").submodule_search_locations
    path = pathlib.Path(package, "builtin_schemas", "vendor", f"{schema}.json")
    return jsonschema.Draft7Validator(json.loads(path.read_text(encoding="utf-8")))


def hold(schema, name, document):
    error = best_match(validator(schema).iter_errors(document))
    if error is None:
        print(f"{name}: {schema}")
    else:
        wrong.append(f"{name} is not as {schema} wants it: {error.json_path}: {error.message}")


def parse(text):
    """YAML where `on` is a word and no truth value, as GitHub and GitLab read it."""
    document = yaml.safe_load(text)
    if isinstance(document, dict) and True in document:
        document["on"] = document.pop(True)
    return document


def action_of(integrations):
    path = integrations / "github" / "action.yml"
    action = parse(path.read_text(encoding="utf-8"))
    hold("github-actions", path.name, action)
    return action.get("inputs", {})


def template_of(integrations):
    path = integrations / "gitlab" / "postern.yml"
    template = parse(path.read_text(encoding="utf-8"))
    hold("gitlab-ci", path.name, template)
    # The schema takes anything under a name that is hidden; what extends it is a job.
    for name, job in template.items():
        if name.startswith("."):
            hold("gitlab-ci", f"{path.name} {name}", {name.lstrip("."): job})
    return template


def uses(name, workflow, inputs):
    """Steps that use the action give it what it takes: no schema knows that."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "/integrations/github@" not in step.get("uses", ""):
                continue
            given = set(step.get("with", {}))
            required = {one for one, about in inputs.items() if about.get("required")}
            if given - set(inputs) or required - given:
                wrong.append(f"{name}: unknown {given - set(inputs)}, missing {required - given}")


def extends(name, jobs, template):
    for job in (jobs[one] for one in jobs if one != "include"):
        base = template.get(job.get("extends"))
        if base is None:
            wrong.append(f"{name}: it extends `{job.get('extends')}`, which is not in the template")
            continue
        merged = base | {key: value for key, value in job.items() if key != "extends"}
        hold("gitlab-ci", f"{name}, merged", {"job": merged})


def examples(path, inputs, template):
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    if not found:
        wrong.append(f"{path.name} has no YAML")
    for number, text in enumerate(found, 1):
        name, document = f"{path.name} example {number}", parse(text)
        if "jobs" in document:
            hold("github-workflows", name, document)
            uses(name, document, inputs)
        else:
            hold("gitlab-ci", name, document)
            extends(name, document, template)


if __name__ == "__main__":
    folder, *documents = map(pathlib.Path, sys.argv[1:])
    known_inputs, known_jobs = action_of(folder), template_of(folder)
    for one in documents:
        examples(one, known_inputs, known_jobs)
    sys.exit("\n".join(wrong) or 0)
