"""What the operator reports in `status`."""

from typing import Literal

from pydantic import Field

from pagoda.api.autoscaling import AutoscalingStatus
from pagoda.api.schema import ApiModel, list_map


class Condition(ApiModel):
    """One aspect of the state, in the shape of metav1.Condition."""

    type: str = Field(description="Type of the condition.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation the condition was computed from."
    )
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(description="One word for the cause.", max_length=1024)
    message: str = Field(description="What happened and what to do.", max_length=32768)


class Rendering(ApiModel):
    """Which rendering of the pod template runs, and whether the operator has a newer one."""

    current: str | None = Field(default=None, description="The rendering that runs.")
    available: str | None = Field(
        default=None,
        description="A newer rendering for the same spec. Put it into spec.rollout.rendering to take "
        "it; that restarts the replicas.",
    )


class Address(ApiModel):
    """One way to the OpenAI API."""

    name: str = Field(description="internal or ingress.")
    url: str = Field(description="Base URL of the OpenAI API.")


class LLMDeploymentStatus(ApiModel):
    """What was observed."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that the status belongs to."
    )
    model: str | None = Field(default=None, description="Name under which the model is served.")
    engine: str | None = Field(default=None, description="Engine in use.")
    image: str | None = Field(default=None, description="Engine image in use.")
    url: str | None = Field(
        default=None,
        description="Base URL of the OpenAI API: the Ingress's once it is admitted, else the Service's.",
    )
    addresses: list[Address] | None = Field(
        default=None,
        description="All ways to the OpenAI API.",
        json_schema_extra=list_map("name"),
    )
    gpus: int | None = Field(default=None, description="GPUs that the pods hold or ask for.")
    replicas: int | None = Field(default=None, description="Pods that exist, of any revision.")
    ready_replicas: int | None = Field(default=None, description="Pods that serve.")
    desired_replicas: int | None = Field(
        default=None, description="Pods that are wanted; while suspended, those of the resume."
    )
    selector: str | None = Field(
        default=None, description="Label selector of the pods, for the scale subresource."
    )
    tokens_per_second: int | None = Field(
        default=None,
        description="Output-equivalent tokens per second that all replicas serve, over the last 90 "
        "seconds; absent where it is not known.",
    )
    autoscaling: AutoscalingStatus | None = Field(
        default=None, description="What autoscaling works with, where spec.autoscaling is set."
    )
    ready: str | None = Field(default=None, description="Serving and wanted pods, like 1/2.")
    state: str | None = Field(default=None, description="The state in one word.")
    reason: str | None = Field(default=None, description="Reason of the Ready condition.")
    revision: str | None = Field(default=None, description="Hash of the pod template in force.")
    rendering: Rendering | None = Field(default=None, description="Rendering in use and available.")
    conditions: list[Condition] | None = Field(
        default=None,
        description="Ready, Available, Reconciling, Stalled, ModelReady, WorkloadReady and RoutesReady; "
        "with spec.autoscaling also AutoscalingActive.",
        json_schema_extra=list_map("type"),
    )
