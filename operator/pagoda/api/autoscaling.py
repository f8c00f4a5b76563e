"""Autoscaling on tokens per second: what the user asks for and what is reported."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pagoda.api.schema import ApiModel, rule, rules, schemaless


class Autoscaling(ApiModel):
    """How the number of replicas follows the load."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                "spec.autoscaling.minReplicas must not exceed spec.autoscaling.maxReplicas",
            )
        )
    }

    min_replicas: Annotated[int, Field(ge=0, le=10000)] | None = Field(
        default=None,
        description="The fewest replicas. Default: 1.",
        json_schema_extra=rules(
            rule(
                "self >= 1",
                "spec.autoscaling.minReplicas 0 needs a gateway that holds requests while nothing "
                "runs, which Pagoda does not have yet: set 1, or use spec.suspend",
            )
        ),
    )
    max_replicas: Annotated[int, Field(ge=1, le=10000)] = Field(description="The most replicas.")
    target_tokens_per_second: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="The demand that one replica shall carry, in output tokens per second; a prompt "
        "token counts as a part of one (docs/autoscaling.md). Default: 70 % of the capacity that was "
        "measured; until one was, replicas follow waiting requests and the use of the KV cache.",
    )
    mode: Literal["Active", "Shadow"] | None = Field(
        default=None,
        description="Shadow: status.autoscaling shows the count that would be chosen, and nothing is "
        "scaled. Default: Active.",
    )
    behavior: dict[str, Any] | None = schemaless(
        "How fast the count may change (autoscaling/v2 HorizontalPodAutoscalerBehavior). What is "
        "left out has the defaults of docs/autoscaling.md."
    )


class ScalingDecision(ApiModel):
    """One change of the wanted count, with the values that caused it."""

    time: str = Field(description="When it was seen.", json_schema_extra={"format": "date-time"})
    from_replicas: int = Field(description="Count before.")
    to_replicas: int = Field(description="Count after.")
    reason: str = Field(description="The metric that asked for most, and its value.")


class Capacity(ApiModel):
    """What one replica was measured to serve at most."""

    tokens_per_second: int = Field(description="In output tokens per second.")
    revision: str = Field(description="The revision (status.revision) that it was measured of.")
    changed_at: int = Field(description="When it changed, in seconds since 1970.")


class AutoscalingStatus(ApiModel):
    """What autoscaling works with."""

    source: Literal["Given", "Learned", "Unknown"] | None = Field(
        default=None,
        description="Where the target comes from: the spec, measured capacity, or nowhere yet.",
    )
    target_tokens_per_second: int | None = Field(
        default=None, description="The demand that one replica shall carry, in output tokens/s."
    )
    capacity: Capacity | None = Field(
        default=None, description="What one replica was measured to serve at most."
    )
    desired_replicas: int | None = Field(
        default=None, description="The count that the metrics ask for, within the bounds."
    )
    decisions: list[ScalingDecision] | None = Field(
        default=None,
        description="The last five changes of the wanted count, the newest first.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
