"""The CRD: structural, described on every field, small, and equal to the committed file."""

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pagoda.api.crd import custom_resource_definition, structural, to_yaml
from pagoda.api.schema import ApiModel
from pydantic import Field

ROOT = Path(__file__).parents[3]
FILE = ROOT / "crds" / "llmdeployments.serving.pagoda.dev.yaml"


def schema() -> dict[str, Any]:
    version = custom_resource_definition()["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]


def fields(node: dict[str, Any], path: str = ""):
    for name, sub in node.get("properties", {}).items():
        yield f"{path}.{name}", sub
        yield from fields(sub, f"{path}.{name}")
    if isinstance(items := node.get("items"), dict):
        yield from fields(items, f"{path}[]")


def test_committed_file_is_up_to_date():
    assert FILE.read_text() == to_yaml(custom_resource_definition())


def test_round_trips_through_yaml_without_anchors():
    text = to_yaml(custom_resource_definition())
    assert yaml.safe_load(text) == custom_resource_definition()
    assert "&id" not in text


def test_every_field_is_described():
    undescribed = [path for path, sub in fields(schema()) if not sub.get("description")]
    assert undescribed == [".metadata"]  # which the API server wants bare


def test_is_small_enough_for_client_side_apply():
    assert len(to_yaml(custom_resource_definition())) < 100_000


def test_holds_only_structural_keywords():
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            assert not {
                "$ref",
                "$defs",
                "anyOf",
                "allOf",
                "oneOf",
                "const",
                "title",
                "default",
            } & set(node) or "properties" in node.get("properties", {}), node
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    for _, sub in fields(schema()):
        walk({k: v for k, v in sub.items() if k != "properties"})


def test_refuses_unknown_shapes():
    class Odd(ApiModel):
        member: int | list[str] = Field(description="odd")

    raw = Odd.model_json_schema(by_alias=True)
    with pytest.raises(TypeError, match="union"):
        structural(raw, {}, "Odd")


def test_literal_and_optional():
    class Model(ApiModel):
        kind: Literal["a"] | None = Field(default=None, description="kind")

    out = structural(Model.model_json_schema(by_alias=True), {}, "Model")
    assert out["properties"]["kind"] == {"type": "string", "enum": ["a"], "description": "kind"}
    assert "required" not in out


def test_full_example_has_every_field_of_the_spec():
    (example,) = yaml.safe_load_all((ROOT / "examples" / "full.yaml").read_text())

    def missing(node: dict[str, Any], values: list[Any], path: str):
        for name, sub in node.get("properties", {}).items():
            found = [value[name] for value in values if name in value]
            if not found:
                yield f"{path}.{name}"
            if isinstance(items := sub.get("items"), dict) and "properties" in items:
                yield from missing(
                    items, [item for lists in found for item in lists], f"{path}.{name}[]"
                )
            else:
                yield from missing(sub, found, f"{path}.{name}")

    # The one that excludes another.
    left_out = list(missing(schema()["properties"]["spec"], [example["spec"]], "spec"))
    assert left_out == ["spec.replicas"]
