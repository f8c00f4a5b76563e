"""What can be said about the chart without Helm; tests/integration/test_chart.py renders it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pagoda"
CRD = "llmdeployments.serving.pagoda.dev.yaml"


def test_crd_is_the_generated_one() -> None:
    assert (CHART / "files/crds" / CRD).read_bytes() == (ROOT / "crds" / CRD).read_bytes(), (
        f"cp crds/{CRD} charts/pagoda/files/crds/"
    )


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_schema_knows_exactly_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    _same_keys(values, schema, schema["definitions"], "")


def _same_keys(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None or path.endswith(".resources"):
        return
    assert schema["additionalProperties"] is False, path
    assert set(value) == set(properties) - {"global"}, path
    for key, inner in value.items():
        _same_keys(inner, properties[key], definitions, f"{path}.{key}")


def test_readme_lists_every_value() -> None:
    readme = (CHART / "README.md").read_text()
    for key in yaml.safe_load((CHART / "values.yaml").read_text()):
        assert re.search(rf"`{key}[`.]", readme), key


def test_no_permission_on_secrets_and_no_wildcard() -> None:
    # The cheap check; the rendered roles are looked at in the integration test.
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    for text in (helpers, (CHART / "templates/rbac.yaml").read_text()):
        for line in text.splitlines():
            if re.match(r"\s*(- )?(apiGroups|resources|verbs):", line):
                assert "secrets" not in line
                assert "*" not in line


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_use_only_fields_that_exist(path: Path) -> None:
    crd = yaml.safe_load((ROOT / "crds" / CRD).read_text())
    (version,) = crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "LLMDeployment":
            assert document["apiVersion"] == f"{crd['spec']['group']}/{version['name']}"
            _known(document["spec"], schema["properties"]["spec"], "spec")


def _known(value: Any, schema: dict[str, Any], path: str) -> None:
    if isinstance(value, list):
        for item in value:
            _known(item, schema["items"], f"{path}[]")
    elif isinstance(value, dict):
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            assert known, f"{path}.{key} is no field of the CRD"
            _known(inner, known, f"{path}.{key}")
