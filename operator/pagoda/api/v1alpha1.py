"""`LLMDeployment` (serving.pagoda.dev/v1alpha1). A field is here only when it works.

Defaults are not in the schema: they would be written into the user's object and show up as drift in
GitOps tools. `pagoda.render.effective` fills them in and status shows the result.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pagoda.api.schema import ApiModel, list_map, quantity, rule, rules, schemaless

Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(max_length=253)]
ObjectName = Annotated[str, Field(max_length=253, pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Quantity = int | str


class ModelSource(ApiModel):
    """Which model to serve and under what name."""

    uri: str = Field(
        description="Where the weights are: pvc://CLAIM/PATH, a directory in a PersistentVolumeClaim of "
        "the same namespace that holds config.json, the tokenizer and *.safetensors. The "
        "claim is mounted read-only.",
        max_length=512,
        json_schema_extra=rules(
            rule(
                "self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._-]+)*/?$')",
                "spec.model.uri must look like pvc://CLAIM/PATH, for example pvc://models/llama-3; "
                "other sources are not supported yet",
            ),
            rule(
                "!self.contains('..')",
                "spec.model.uri must not contain '..': give the path from the root of the claim",
            ),
        ),
    )
    name: str | None = Field(
        default=None,
        description="The name clients send as `model`. Default: metadata.name.",
        max_length=253,
        pattern="^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
    )


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


class LocalReference(ApiModel):
    """An object of the same namespace, by name."""

    name: Name = Field(description="Name of the object.")


class Engine(ApiModel):
    """The inference engine that serves the model."""

    type: Literal["pagoda"] | None = Field(
        default=None, description="Which engine runs. Default: pagoda, Pagoda's own runtime."
    )
    image: Annotated[str, Field(max_length=512, pattern="^[^ \\t]+$")] | None = Field(
        default=None,
        description="Container image of the engine. Default: the operator's setting for the engine, "
        "shown in status.image.",
    )
    image_pull_secrets: list[LocalReference] | None = Field(
        default=None,
        description="Secrets of the same namespace with credentials for the image's registry.",
        max_length=16,
        json_schema_extra=list_map("name"),
    )
    args: list[Text] | None = Field(
        default=None,
        description="Extra command-line arguments. They come before the flags that the operator sets, "
        "so the operator's win; a conflict is reported in the WorkloadReady condition.",
        max_length=128,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    env: list[EnvVar] | None = Field(
        default=None,
        description="Extra environment variables.",
        max_length=128,
        json_schema_extra=list_map("name"),
    )


class Resources(ApiModel):
    """What each replica gets. Requests equal limits: an engine sizes threads and cache by them."""

    cpu: Quantity | None = quantity(
        "A quantity: CPU per replica, for example 4 or 500m. The engine runs one thread per whole "
        "CPU. Default: 1."
    )
    memory: Quantity | None = quantity(
        "A quantity: memory per replica, for weights and KV cache, for example 8Gi. Default: 2Gi."
    )


class Rollout(ApiModel):
    """How pods are replaced."""

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


class ServiceExposure(ApiModel):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = Field(
        default=None, description="Type of the Service. Default: ClusterIP."
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port of the Service. Default: 80."
    )
    annotations: Annotated[dict[str, Text], Field(max_length=64)] | None = Field(
        default=None, description="Annotations of the Service, for example for a load balancer."
    )


class Expose(ApiModel):
    """How clients reach the model."""

    service: ServiceExposure | None = Field(
        default=None, description="Settings of the Service, which always exists."
    )


class Scheduling(ApiModel):
    """Where replicas may run. Same meaning as in a pod's spec."""

    node_selector: Annotated[dict[str, Text], Field(max_length=64)] | None = Field(
        default=None, description="Labels a node must have."
    )
    tolerations: list[dict[str, Any]] | None = Field(
        default=None,
        description="Taints that replicas tolerate (core/v1 Toleration).",
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    affinity: dict[str, Any] | None = schemaless("Affinity rules (core/v1 Affinity).")
    priority_class_name: Name | None = Field(
        default=None, description="PriorityClass of the replicas."
    )
    runtime_class_name: Name | None = Field(
        default=None, description="RuntimeClass of the replicas."
    )


class LLMDeploymentSpec(ApiModel):
    """What to serve, with what, how often and where."""

    model: ModelSource = Field(description="The model to serve.")
    engine: Engine | None = Field(default=None, description="The engine that serves it.")
    resources: Resources | None = Field(default=None, description="CPU and memory of each replica.")
    replicas: Annotated[int, Field(ge=0, le=10000)] | None = Field(
        default=None,
        description="How many replicas run. When it is not set, one is started and the count is left "
        "to whoever scales the Deployment.",
    )
    rollout: Rollout | None = Field(default=None, description="How pods are replaced.")
    expose: Expose | None = Field(default=None, description="How clients reach the model.")
    scheduling: Scheduling | None = Field(default=None, description="Where replicas may run.")
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of the replicas, for example for workload identity. Default: one "
        "of our own without any permission.",
    )


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


class LLMDeploymentStatus(ApiModel):
    """What was observed."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that the status belongs to."
    )
    model: str | None = Field(default=None, description="Name under which the model is served.")
    engine: str | None = Field(default=None, description="Engine in use.")
    image: str | None = Field(default=None, description="Engine image in use.")
    url: str | None = Field(
        default=None, description="Base URL of the OpenAI API inside the cluster."
    )
    replicas: int | None = Field(default=None, description="Pods that exist, of any revision.")
    ready_replicas: int | None = Field(default=None, description="Pods that serve.")
    desired_replicas: int | None = Field(default=None, description="Pods that are wanted.")
    selector: str | None = Field(
        default=None, description="Label selector of the pods, for the scale subresource."
    )
    ready: str | None = Field(default=None, description="Serving and wanted pods, like 1/2.")
    state: str | None = Field(default=None, description="The state in one word.")
    reason: str | None = Field(default=None, description="Reason of the Ready condition.")
    revision: str | None = Field(default=None, description="Hash of the pod template in force.")
    rendering: Rendering | None = Field(default=None, description="Rendering in use and available.")
    conditions: list[Condition] | None = Field(
        default=None,
        description="Ready, Available, Reconciling, Stalled, ModelReady and WorkloadReady.",
        json_schema_extra=list_map("type"),
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
