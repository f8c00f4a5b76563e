"""How many KV blocks to make, and the longest request that leaves."""

from __future__ import annotations

from dataclasses import dataclass

from pagoda_runtime import cgroup
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.model.spec import DTYPE_BYTES, DecoderSpec, DType

# Of the container's memory; the rest is for weights, activations and two Python processes.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class KVSize:
    """The cache's blocks and the context length that follows."""

    num_blocks: int
    block_bytes: int
    max_model_len: int


def block_bytes(spec: DecoderSpec, block_size: int, itemsize: int) -> int:
    """Bytes of one block: keys and values of block_size tokens in every layer."""
    return 2 * spec.num_layers * spec.kv_size * block_size * itemsize


def size_kv_cache(
    config: EngineConfig, spec: DecoderSpec, dtype: DType, memory_limit: int | None = None
) -> KVSize:
    """Choose the number of blocks; ConfigError if --max-model-len cannot be honoured.

    Default: what max_num_seqs requests of full length need, at most a quarter of the memory limit.
    A context length that was not asked for is lowered until one request of it fits, so that none is
    accepted in vain.
    """
    length = config.max_model_len or spec.max_position
    if length > spec.max_position:
        raise ConfigError(
            f"--max-model-len {length} is above the model's {spec.max_position} positions"
        )
    per_block = block_bytes(spec, config.block_size, DTYPE_BYTES[dtype])
    per_request = -(-length // config.block_size)
    if config.kv_cache_memory_bytes is not None:
        num_blocks = config.kv_cache_memory_bytes // per_block
    else:
        limit = cgroup.memory_limit() if memory_limit is None else memory_limit
        num_blocks = min(int(limit * _MEMORY_SHARE) // per_block, config.max_num_seqs * per_request)
    if num_blocks >= per_request:
        return KVSize(num_blocks, per_block, length)
    if config.max_model_len is not None or num_blocks == 0:
        raise ConfigError(
            f"one request of {length} tokens needs {per_request * per_block} bytes of KV cache, there "
            f"are {num_blocks * per_block}: lower --max-model-len, or raise --kv-cache-memory-bytes or "
            "the memory limit"
        )
    return KVSize(num_blocks, per_block, num_blocks * config.block_size)
