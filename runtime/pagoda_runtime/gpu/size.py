"""How many KV blocks a GPU has room for. Pure arithmetic: what is free was measured."""

from __future__ import annotations

from dataclasses import dataclass

from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.engine.kv_size import KVSize, block_bytes
from pagoda_runtime.model.spec import DTYPE_BYTES, DecoderSpec, DType


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU: all, what is in use with weights and graphs loaded, and what the largest step
    takes on top at its peak.
    """

    total: int
    used: int
    step: int


def size_gpu_cache(config: EngineConfig, spec: DecoderSpec, dtype: DType, memory: Memory) -> KVSize:
    """Give the cache what --gpu-memory-utilization leaves of the GPU, or --kv-cache-memory-bytes.

    A context length that was not asked for is lowered until one request of it fits; ConfigError if
    one that was asked for does not.
    """
    length = config.max_model_len or spec.max_position
    if length > spec.max_position:
        raise ConfigError(
            f"--max-model-len {length} is above the model's {spec.max_position} positions"
        )
    per_block = block_bytes(spec, config.block_size, DTYPE_BYTES[dtype])
    room = config.kv_cache_memory_bytes
    if room is None:
        room = int(memory.total * config.gpu_memory_utilization) - memory.used - memory.step
    num_blocks = max(0, room) // per_block
    per_request = -(-length // config.block_size)
    if num_blocks >= per_request:
        return KVSize(num_blocks, per_block, length)
    if config.max_model_len is not None or num_blocks == 0:
        raise ConfigError(
            f"one request of {length} tokens needs {per_request * per_block} bytes of KV cache, the GPU "
            f"has room for {num_blocks * per_block} (of {memory.total}, {memory.used} are in use and a "
            f"step takes {memory.step}): lower --max-model-len or --max-num-batched-tokens, or raise "
            "--gpu-memory-utilization"
        )
    return KVSize(num_blocks, per_block, num_blocks * config.block_size)
