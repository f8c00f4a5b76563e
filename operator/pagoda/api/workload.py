"""What runs in a replica: model, engine, resources, placement."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pagoda.api.common import LocalReference, Name, ObjectName, Quantity, Text
from pagoda.api.env import EnvVar
from pagoda.api.schema import ApiModel, list_map, quantity, rule, rules, schemaless

HF_URI = "hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
PVC_URI = "pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._-]+)*/?"


class SecretReference(ApiModel):
    """A Secret of the same namespace, referred to and never read by the operator."""

    name: ObjectName = Field(description="Name of the Secret.")


class ModelSource(ApiModel):
    """Which model to serve and under what name."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.revision) || self.uri.startsWith('hf://')",
                "spec.model.revision belongs to hf:// models; remove it, or name the directory of "
                "the revision in the pvc:// URI",
            ),
            rule(
                "!has(self.secretRef) || self.uri.startsWith('hf://')",
                "spec.model.secretRef belongs to hf:// models; a claim needs no credentials",
            ),
        )
    }

    uri: str = Field(
        description="Where the weights are. pvc://CLAIM/PATH: a directory in a PersistentVolumeClaim "
        "of the same namespace that holds config.json, the tokenizer and *.safetensors; mounted "
        "read-only. hf://ORG/NAME: a repository of the Hugging Face hub or of a mirror, downloaded "
        "by each replica into its own scratch space before the engine starts.",
        max_length=512,
        json_schema_extra=rules(
            rule(
                f"self.matches('^({PVC_URI}|{HF_URI})$')",
                "spec.model.uri must look like pvc://CLAIM/PATH, for example pvc://models/llama-3, or "
                "hf://ORG/NAME, for example hf://Qwen/Qwen3-0.6B; other sources are not supported yet",
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
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of an hf:// repository. Name a commit to serve the same "
        "weights for ever. Default: main.",
        max_length=255,
        pattern="^[A-Za-z0-9][A-Za-z0-9._/-]*$",
    )
    secret_ref: SecretReference | None = Field(
        default=None,
        description="Secret with the key HF_TOKEN, for gated and private hf:// repositories. Only the "
        "download sees it.",
    )


class Engine(ApiModel):
    """The inference engine that serves the model."""

    type: Literal["pagoda", "vllm"] | None = Field(
        default=None,
        description="Which engine runs, on CPU or on GPUs: pagoda, Pagoda's own runtime, or vllm. "
        "Default: vllm where spec.resources.gpu is set, else pagoda.",
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


class Gpu(ApiModel):
    """GPUs of each replica."""

    count: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="GPUs per replica, all on one node. Default: 1."
    )
    resource_name: (
        Annotated[str, Field(max_length=253, pattern="^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] | None
    ) = Field(
        default=None,
        description="Extended resource that the device plugin offers, for example amd.com/gpu or "
        "nvidia.com/mig-3g.40gb. Default: nvidia.com/gpu.",
    )
    product: (
        Annotated[str, Field(max_length=63, pattern="^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
        | None
    ) = Field(
        default=None,
        description="Only nodes with this GPU, by the label that the vendor's feature discovery sets "
        "(nvidia.com/gpu.product), for example NVIDIA-H100-80GB-HBM3.",
    )


class Parallelism(ApiModel):
    """How one replica spreads a model over its GPUs."""

    tensor: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Tensor parallelism: GPUs that share each layer. Default: spec.resources.gpu.count.",
    )


class Resources(ApiModel):
    """What each replica gets. Requests equal limits: an engine sizes threads and cache by them."""

    cpu: Quantity | None = quantity(
        "A quantity: CPU per replica, for example 4 or 500m. An engine on CPU runs one thread per "
        "whole CPU. Default: pagoda 1, vllm 2; with GPUs 4 for each."
    )
    memory: Quantity | None = quantity(
        "A quantity: memory per replica, for example 8Gi. On CPU it holds weights and KV cache. "
        "Default: pagoda 2Gi, with GPUs 16Gi for each; vllm 8Gi, with GPUs 32Gi for each."
    )
    shared_memory: Quantity | None = quantity(
        "A quantity: size of the memory-backed /dev/shm, through which an engine's processes talk; "
        "what is used of it counts as memory. Default: none for pagoda, with more than one GPU 1Gi for "
        "each; vllm 1Gi, with more than one GPU 2Gi for each."
    )
    gpu: Gpu | None = Field(default=None, description="GPUs per replica. Default: none.")


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
