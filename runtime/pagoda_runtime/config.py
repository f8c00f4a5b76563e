"""What `pagoda-runtime serve` was asked to do. No torch here: both processes read this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


class ConfigError(ValueError):
    """The command line or the model directory asks for something that cannot work; the message
    is for the user.
    """


# The largest step by default. A CPU's products are as fast as they get with some hundred tokens, a
# GPU's with thousands.
CPU_SIZES = {"max_num_seqs": 32, "max_num_batched_tokens": 256}
GPU_SIZES = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}


@dataclass(frozen=True)
class EngineConfig:
    """What the engine process needs; travels to it as JSON.

    `max_num_queued_reqs` None means four times max_num_seqs, `max_num_queued_tokens` None no bound.

    `max_model_len` None means: what config.json says, lowered until one such request fits the KV
    cache. `kv_cache_memory_bytes` None means: chosen from the container's memory limit, see
    `engine.kv_size`.
    """

    model: str
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["int8", "fp8"] | None = None
    execution: Literal["auto", "cuda", "native", "torch"] = "auto"
    load_format: Literal["auto", "safetensors", "dummy"] = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = CPU_SIZES["max_num_seqs"]
    max_num_batched_tokens: int = CPU_SIZES["max_num_batched_tokens"]
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None
    block_size: int = 32
    enable_prefix_caching: bool = True
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    seed: int = 0
    min_step_ms: float = 0.0
    log_level: str = "info"

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "block_size",
            "tensor_parallel_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(
                "--max-model-len must be at least 2: one prompt token and one answer token"
            )
        if self.max_num_seqs > self.max_num_batched_tokens:
            raise ConfigError(
                f"--max-num-seqs {self.max_num_seqs} is above --max-num-batched-tokens "
                f"{self.max_num_batched_tokens}: every running request needs one token of each step"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError("--gpu-memory-utilization must be above 0 and at most 1")
        for name in ("min_step_ms", "max_num_queued_reqs", "max_num_queued_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"--{name.replace('_', '-')} must not be negative")

    @property
    def queued_reqs_bound(self) -> int:
        """The most requests that may wait for a seat."""
        bound = self.max_num_queued_reqs
        return 4 * self.max_num_seqs if bound is None else bound


@dataclass(frozen=True)
class Rank:
    """A process among the --tensor-parallel-size that compute one model: which one it is, and the
    loopback port where they find each other. Rank 0 listens there already, on the descriptor `listener`.
    """

    index: int = 0
    port: int = 0
    listener: int | None = None


@dataclass(frozen=True)
class ServeConfig:
    """The whole of `pagoda-runtime serve`. Times are in seconds."""

    engine: EngineConfig
    served_model_names: tuple[str, ...] = ()
    host: str = "0.0.0.0"
    port: int = 8000
    drain_delay: float = 5.0
    shutdown_timeout: float = 30.0
    step_timeout: float = 300.0
    pooling_type: Literal["last", "mean", "cls"] = "last"
    max_body_bytes: int = 32 * 1024 * 1024
    body_timeout: float = 30.0
    termination_log: Path = field(default=Path("/dev/termination-log"))
    api_key_file: Path | None = None
    metrics_port: int | None = None
    metrics_compat: Literal["vllm"] | None = None
    max_connections: int = 2048

    def __post_init__(self) -> None:
        if self.max_connections < 1:
            raise ConfigError("--max-connections must be at least 1")

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names the API answers to; the first one is reported. Default: the --model value
        as given.
        """
        return self.served_model_names or (self.engine.model,)
