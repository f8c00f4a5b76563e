"""How many KV blocks to make, and the longest request that leaves.

Memory is what the container may use (its cgroup's limit). Taken from it before the KV cache gets
what it can use: a margin, the two processes, the weights and the largest step's activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pagoda_runtime import cgroup
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.model.spec import DTYPE_BYTES, DecoderSpec, DType

# Not planned for, as vLLM's --gpu-memory-utilization of 0.92 leaves 8 %: allocators, page tables.
_MARGIN = 0.08
# API process 60 MB, engine process with torch 520 MB of which 230 MB are its libraries' files.
_PROCESSES = 512 << 20
# The estimate errs on the safe side. A model that may fit is tried, with this share of the memory.
_LEAST_SHARE = 1 / 16
_LEAST_LOGITS_ROWS = 16


@dataclass(frozen=True)
class KVSize:
    """The cache's blocks and the context length that follows."""

    num_blocks: int
    block_bytes: int
    max_model_len: int


def block_bytes(spec: DecoderSpec, block_size: int, itemsize: int) -> int:
    """Bytes of one block: keys and values of block_size tokens in every layer."""
    return 2 * spec.num_layers * spec.kv_size * block_size * itemsize


def weight_bytes(spec: DecoderSpec, dtype: DType, quantization: str | None) -> int:
    """Bytes of the loaded weights. A tied matrix counts twice: looked up in one form, multiplied in
    another. int8 keeps norms, biases and the embedding in `dtype`.
    """
    size = DTYPE_BYTES[dtype]
    embedding = spec.vocab_size * spec.hidden_size
    others = sum(math.prod(s) for s in spec.tensor_shapes().values()) - embedding
    if spec.tie_embeddings:
        others += embedding
    return embedding * size + others * (1 if quantization == "int8" else size)


def logits_rows(max_num_seqs: int) -> int:
    """Rows of logits that exist at once: one per request that samples. Scoring a prompt takes turns,
    with enough rows for the head to be read from memory less often than it is computed with.
    """
    return max(max_num_seqs, _LEAST_LOGITS_ROWS)


def activation_bytes(spec: DecoderSpec, max_num_batched_tokens: int, max_num_seqs: int) -> int:
    """Bytes of the largest step's intermediate results, at most 4 per number.

    Per token: what is added up and its normed form, queries, keys and values before and after
    turning, attention's output, and the MLP's two halves with their product. Per row of logits:
    two more rows as wide, with 8 bytes per number, in sampling.
    """
    per_token = 3 * spec.hidden_size + 3 * spec.q_size + 4 * spec.kv_size
    per_token += 3 * spec.intermediate_size
    return 4 * (
        max_num_batched_tokens * per_token + 5 * logits_rows(max_num_seqs) * spec.vocab_size
    )


def size_kv_cache(
    config: EngineConfig, spec: DecoderSpec, dtype: DType, memory_limit: int | None = None
) -> KVSize:
    """Choose the number of blocks; ConfigError if --max-model-len cannot be honoured.

    Default: what max_num_seqs requests of full length need, at most what the memory limit leaves. A
    context length that was not asked for is lowered until one request of it fits, so that none is
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
        limit //= config.tensor_parallel_size  # All ranks are in the same container.
        room = room_for_cache(config, spec, dtype, limit)
        num_blocks = min(room // per_block, config.max_num_seqs * per_request)
    if num_blocks >= per_request:
        return KVSize(num_blocks, per_block, length)
    if config.max_model_len is not None or num_blocks == 0:
        raise ConfigError(
            f"one request of {length} tokens needs {per_request * per_block} bytes of KV cache, there "
            f"are {num_blocks * per_block}: lower --max-model-len, or raise --kv-cache-memory-bytes or "
            "the memory limit"
        )
    return KVSize(num_blocks, per_block, num_blocks * config.block_size)


def room_for_cache(config: EngineConfig, spec: DecoderSpec, dtype: DType, limit: int) -> int:
    """Bytes of a memory limit that are left for the cache."""
    taken = _PROCESSES + weight_bytes(spec, dtype, config.quantization)
    taken += activation_bytes(spec, config.max_num_batched_tokens, config.max_num_seqs)
    return max(int(limit * (1 - _MARGIN)) - taken, int(limit * _LEAST_SHARE))
