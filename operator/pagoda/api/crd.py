"""The CustomResourceDefinition, generated from the models.

pydantic's JSON schema is not a structural schema: references, `anyOf` with null, titles and
`const` are refused by the API server. The transform below covers the shapes our models use and
raises on any other, so a new shape is a decision and not an accident.
"""

from typing import Any

import yaml

from pagoda.api import GROUP, KIND, PLURAL, VERSION
from pagoda.api.v1alpha1 import LLMDeployment

Schema = dict[str, Any]

PASSED_THROUGH = {
    "type",
    "description",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
}
DROPPED = {"title", "default"}  # defaults live in code, see v1alpha1

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Model", "string", ".status.model", 0),
    ("Engine", "string", ".status.engine", 0),
    ("Ready", "string", ".status.ready", 0),
    ("Status", "string", ".status.state", 0),
    ("Tok/s", "integer", ".status.tokensPerSecond", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", ".status.reason", 1),
    ("GPUs", "integer", ".status.gpus", 1),
    ("Image", "string", ".status.image", 1),
    ("URL", "string", ".status.url", 1),
)


def custom_resource_definition() -> dict[str, Any]:
    """Build the whole CRD object."""
    raw = LLMDeployment.model_json_schema(by_alias=True)
    schema = structural(raw, raw.get("$defs", {}), "LLMDeployment")
    schema["description"] = "LLMDeployment serves a large language model behind the OpenAI API."
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": "Always serving.pagoda.dev/v1alpha1."},
        "kind": {"type": "string", "description": "Always LLMDeployment."},
        "metadata": {"type": "object"},  # the API server allows no description here
    } | schema["properties"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["llmd"],
                "categories": ["llm"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "priority": priority}
                        for name, kind, path, priority in COLUMNS
                    ],
                }
            ],
        },
    }


def to_yaml(crd: dict[str, Any]) -> str:
    """Serialise for `crds/`, with a header that says where it comes from."""
    body = yaml.dump(crd, Dumper=_PlainDumper, sort_keys=False, width=100, allow_unicode=True)
    return f"# Generated from operator/pagoda/api by `pagoda crd`; do not edit.\n{body}"


class _PlainDumper(yaml.SafeDumper):
    """Writes shared objects out in full; `kubectl diff` users should not meet YAML anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def structural(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Transform pydantic's `schema` into a structural one; `path` names it in errors.

    Raises:
        TypeError: the schema has a shape that this transform does not know.
    """
    schema = dict(schema)
    schema.pop("$defs", None)
    if "$ref" in schema:
        target = definitions[schema.pop("$ref").removeprefix("#/$defs/")]
        schema = target | schema  # the field's own description wins over the class docstring
    if "allOf" in schema:
        raise TypeError(f"{path}: allOf is not supported")
    if "anyOf" in schema:
        schema = without_null(schema, path)
        if "$ref" in schema or "anyOf" in schema:
            return structural(schema, definitions, path)
    out: Schema = {}
    for key, value in schema.items():
        if key in PASSED_THROUGH or key.startswith("x-kubernetes-"):
            out[key] = value
        elif key == "const":
            out["enum"] = [value]
        elif key == "properties":
            out[key] = {
                name: structural(sub, definitions, f"{path}.{name}") for name, sub in value.items()
            }
        elif key == "items":
            out[key] = structural(value, definitions, f"{path}[]")
        elif key == "additionalProperties":
            if value is True:
                out["x-kubernetes-preserve-unknown-fields"] = True
            else:
                out[key] = structural(value, definitions, f"{path}{{}}")
        elif key not in DROPPED:
            raise TypeError(f"{path}: the keyword {key!r} is not supported")
    return out


def without_null(schema: Schema, path: str) -> Schema:
    """Turn `anyOf` of a type and null into the type, and int-or-string into its extension."""
    members = [member for member in schema.pop("anyOf") if member.get("type") != "null"]
    types = sorted(str(member.get("type")) for member in members)
    if len(members) == 1:
        return dict(members[0]) | schema
    if types == ["integer", "string"]:
        return schema | {"x-kubernetes-int-or-string": True}
    raise TypeError(f"{path}: a union of {types} is not supported")
