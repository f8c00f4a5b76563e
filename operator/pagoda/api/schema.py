"""How an API model is written: the base class, field helpers and CEL rules.

The CRD is generated from these models (`pagoda.api.crd`), so whatever a user may need to know about
a field stands here once: its description, bounds, and the rules with a message that says what to
change.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """Part of a custom resource. Python spells fields snake_case, the API camelCase.

    Unknown fields are ignored when reading: a newer CRD may be served by an older operator.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


def rule(expression: str, message: str, **extra: str) -> dict[str, str]:
    """Make one CEL validation; `message` tells the user what to change."""
    return {"rule": expression, "message": message, **extra}


def rules(*validations: dict[str, str], **schema: Any) -> dict[str, Any]:
    """Attach CEL validations (and any other schema keyword) to a model or a field."""
    return {"x-kubernetes-validations": list(validations), **schema}


def list_map(*keys: str) -> dict[str, Any]:
    """Make a list whose items are merged by key under server-side apply."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def schemaless(description: str, **kwargs: Any) -> Any:
    """Describe a field passed through to the pod as it is; its API server validates it there."""
    return Field(
        default=None,
        description=description,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
        **kwargs,
    )


def quantity(description: str) -> Any:
    """Describe an optional Kubernetes resource quantity such as `500m`, `2` or `4Gi`."""
    return Field(
        default=None,
        description=description,
        json_schema_extra=rules(
            rule(
                "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))",
                "must be a quantity above zero, for example 500m, 2 or 4Gi",
            )
        ),
    )
