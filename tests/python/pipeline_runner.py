"""Runs the steps of a pipeline definition as its runner would.

pipeline_runner.py github ACTION_YML INPUTS_JSON
    A composite action: defaults and required inputs, `${{ inputs.* }}` in `env`, each `run` in a file, with bash as the
    runner starts it (GitHub, "Workflow syntax", jobs.<job_id>.steps[*].shell).
pipeline_runner.py gitlab TEMPLATE_YML JOB_YML TOKEN
    A job of JOB_YML with what it extends from TEMPLATE_YML: variables, `id_tokens` as variables, `script` in one
    POSIX shell that ends at the first failure.

The exit code is the pipeline's. Standard output and error are the steps' own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*inputs\.([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}")


def github(path, given):
    with open(path, encoding="utf-8") as file:
        action = yaml.safe_load(file)
    assert action["runs"]["using"] == "composite", action["runs"]
    unknown = set(given) - set(action["inputs"])
    assert not unknown, f"no such inputs: {unknown}"
    inputs = {}
    for name, about in action["inputs"].items():
        assert about["description"], name
        assert ("default" in about) != bool(about.get("required")), f"{name}: required, or with a default"
        assert name in given or "default" in about, f"{name} is required"
        inputs[name] = str(given.get(name, about.get("default")))

    def evaluate(text):
        text = EXPRESSION.sub(lambda found: inputs[found[1]], str(text))
        assert "${{" not in text, f"an expression that this runner does not know: {text}"
        return text

    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash", step
        assert "${{" not in step["run"], "inputs in code are code"
        environment = {name: evaluate(value) for name, value in step.get("env", {}).items()}
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
            script.write(step["run"])
            script.flush()
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", script.name]
            here = {"GITHUB_ACTIONS": "true", "GITHUB_ACTION_PATH": os.path.dirname(os.path.abspath(path))}
            ended = subprocess.run(command, env=os.environ | here | environment, check=False)
        if ended.returncode != 0:
            return ended.returncode
    return 0


def gitlab(template, job_file, token):
    with open(template, encoding="utf-8") as file:
        jobs = yaml.safe_load(file)
    with open(job_file, encoding="utf-8") as file:
        jobs |= yaml.safe_load(file)
    [(_, job)] = [item for item in jobs.items() if not item[0].startswith(".")]
    base = jobs[job["extends"]]
    merged = base | job
    for mapping in ["variables", "id_tokens"]:
        merged[mapping] = base.get(mapping, {}) | job.get(mapping, {})
    environment = {name: str(value) for name, value in merged["variables"].items()}
    for name, about in merged["id_tokens"].items():
        assert about["aud"] == "postern", about
        environment[name] = token
    script = "\n".join(merged["script"])
    here = {"GITLAB_CI": "true"}
    return subprocess.run(["sh", "-e", "-c", script], env=os.environ | here | environment, check=False).returncode


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "github":
        sys.exit(github(arguments[0], json.loads(arguments[1])))
    sys.exit(gitlab(*arguments))
