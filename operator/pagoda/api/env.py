"""Environment variables of the engine, in core/v1's shape."""

from typing import Annotated

from pydantic import Field

from pagoda.api.common import Name
from pagoda.api.schema import ApiModel, rule, rules


class KeyReference(ApiModel):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: Name = Field(description="Name of the object.")
    key: Name = Field(description="Key within the object.")
    optional: bool | None = Field(
        default=None, description="Start without the variable when the object or key is missing."
    )


class FieldReference(ApiModel):
    """A field of the pod, by the downward API."""

    field_path: Name = Field(description="Path of the field, for example status.podIP.")


class EnvSource(ApiModel):
    """Where a variable's value comes from. Exactly one of the members."""

    secret_key_ref: KeyReference | None = Field(
        default=None, description="A Secret's key. The operator refers to it and never reads it."
    )
    config_map_key_ref: KeyReference | None = Field(default=None, description="A ConfigMap's key.")
    field_ref: FieldReference | None = Field(default=None, description="A field of the pod.")


class EnvVar(ApiModel):
    """One environment variable of the engine."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": rules(
            rule(
                "!(has(self.value) && has(self.valueFrom))",
                "set either value or valueFrom of the variable, not both",
            )
        )
    }

    name: Annotated[str, Field(max_length=253, pattern="^[-._a-zA-Z][-._a-zA-Z0-9]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=32768)] | None = Field(
        default=None, description="Literal value. Do not put secrets here; use valueFrom."
    )
    value_from: EnvSource | None = Field(
        default=None,
        description="Takes the value from a Secret, a ConfigMap or a field of the pod.",
        json_schema_extra=rules(
            rule(
                "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)]"
                ".exists_one(x, x)",
                "set exactly one of secretKeyRef, configMapKeyRef and fieldRef in valueFrom",
            )
        ),
    )
