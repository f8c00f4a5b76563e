"""`LLMDeployment` (serving.pagoda.dev/v1alpha1). A field is here only when it works.

Defaults are not in the schema: they would be written into the user's object and show up as drift in
GitOps tools. `pagoda.render.effective` fills them in and status shows the result.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pagoda.api.autoscaling import Autoscaling
from pagoda.api.common import ObjectName
from pagoda.api.exposure import Expose
from pagoda.api.schema import ApiModel, rule, rules, schemaless
from pagoda.api.status import LLMDeploymentStatus
from pagoda.api.workload import Engine, ModelSource, Parallelism, Resources, Scheduling


class Rollout(ApiModel):
    """How pods are replaced."""

    strategy: Literal["Auto", "Surge", "Replace"] | None = Field(
        default=None,
        description="Surge: a new pod is started before an old one stops. Replace: an old one stops "
        "first, so no spare GPU is needed. Auto: Surge, and Replace when the scheduler finds no room "
        "for the new pod. Default: Auto.",
    )
    drain_seconds: Annotated[int, Field(ge=0, le=86400)] | None = Field(
        default=None,
        description="How long a stopping replica may take to finish the requests it has, in seconds. "
        "Default: 60.",
    )
    progress_deadline_seconds: Annotated[int, Field(ge=10, le=86400)] | None = Field(
        default=None,
        description="How long a replica may take to become ready before the roll-out counts as stuck, "
        "in seconds. Default: 1800.",
    )
    rendering: Annotated[str, Field(max_length=63)] | None = Field(
        default=None,
        description="Takes a newer rendering of the pods: set it to the value of "
        "status.rendering.available. An operator upgrade by itself restarts no pod.",
    )


class LLMDeploymentSpec(ApiModel):
    """What to serve, with what, how often and where."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.replicas) || !has(self.autoscaling)",
                "spec.replicas and spec.autoscaling exclude each other: remove spec.autoscaling for a "
                "fixed count, or spec.replicas to have it follow the load",
            ),
            rule(
                "!has(self.parallelism) || !has(self.parallelism.tensor) || "
                "self.parallelism.tensor == 1 || (has(self.resources) && has(self.resources.gpu))",
                "spec.parallelism.tensor above 1 needs GPUs: set spec.resources.gpu.count",
            ),
            rule(
                "!has(self.parallelism) || !has(self.parallelism.tensor) || !has(self.resources) || "
                "!has(self.resources.gpu) || self.parallelism.tensor <= "
                "(has(self.resources.gpu.count) ? self.resources.gpu.count : 1)",
                "spec.parallelism.tensor must not exceed spec.resources.gpu.count",
            ),
        )
    }

    model: ModelSource = Field(description="The model to serve.")
    engine: Engine | None = Field(default=None, description="The engine that serves it.")
    parallelism: Parallelism | None = Field(
        default=None, description="How one replica spreads the model over its GPUs."
    )
    resources: Resources | None = Field(
        default=None, description="CPU, memory and GPUs of each replica."
    )
    replicas: Annotated[int, Field(ge=0, le=10000)] | None = Field(
        default=None,
        description="How many replicas run. When it is not set, one is started and the count is left "
        "to whoever scales the Deployment.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="Lets the number of replicas follow the demand in tokens per second.",
    )
    rollout: Rollout | None = Field(default=None, description="How pods are replaced.")
    expose: Expose | None = Field(default=None, description="How clients reach the model.")
    scheduling: Scheduling | None = Field(default=None, description="Where replicas may run.")
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of the replicas, for example for workload identity. Default: one "
        "of our own without any permission.",
    )
    suspend: bool | None = Field(
        default=None,
        description="Stops all replicas and frees what they hold; the resource, its Service and its "
        "routes stay. When it is false again, as many replicas start as before. Default: false.",
    )
    pod_template: dict[str, Any] | None = schemaless(
        "A strategic merge patch on the pod template that the operator renders (core/v1 "
        "PodTemplateSpec): {metadata, spec}. The engine's container is called engine."
    )


class LLMDeployment(ApiModel):
    """Serves a large language model behind the OpenAI API."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": rules(
            rule(
                "self.metadata.name.size() <= 52 && "
                "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "metadata.name must start with a letter, contain only a-z, 0-9 and '-', end with a "
                "letter or digit and have at most 52 characters; put the model's name in "
                "spec.model.name",
            )
        )
    }

    spec: LLMDeploymentSpec = Field(description="The wanted state.")
    status: LLMDeploymentStatus | None = Field(default=None, description="The observed state.")
