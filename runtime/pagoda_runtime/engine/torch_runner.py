"""The reference execution: one step in plain torch, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import torch
from torch import Tensor

from pagoda_runtime import cgroup
from pagoda_runtime.attention.base import AttentionBackend, KVLayout, SequenceChunk
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.config import EngineConfig, Rank
from pagoda_runtime.engine.kv_size import KVSize, logits_rows, size_kv_cache
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.reading import read_prompt
from pagoda_runtime.engine.sampler import sample
from pagoda_runtime.engine.step import (
    Chunk,
    ChunkOutput,
    ExecutionUnavailableError,
    Runner,
    Sampled,
)
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.group import join
from pagoda_runtime.model.loader import read_weights
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import choose_dtype

_NO_MEMORY = "DefaultCPUAllocator: "


class TorchRunner:
    """Turns the scheduler's chunks into one flat batch of tokens for the decoder."""

    looks_ahead = False

    def __init__(self, decoder: Decoder, attention: AttentionBackend, logits_rows: int) -> None:
        self._decoder = decoder
        self._attention = attention
        self._logits_rows = logits_rows

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """See `Runner`."""
        try:
            return self._run(chunks)
        except RuntimeError as error:
            if self._decoder.group.size > 1:
                # The other ranks are within the step and cannot try it again: the engine ends.
                raise
            # torch.OutOfMemoryError is for devices; on the CPU only the message tells.
            if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY in str(error):
                raise MemoryError(str(error)) from error
            raise

    @torch.inference_mode()
    def _run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        token_ids = [t for c in chunks for t in c.request.token_ids[c.start : c.end]]
        positions = [p for c in chunks for p in range(c.start, c.end)]
        self._attention.plan([SequenceChunk(c.start, c.end, _own_blocks(c)) for c in chunks])
        hidden = self._decoder.forward(
            torch.tensor(token_ids), torch.tensor(positions), self._attention.attend
        )
        parts = torch.split(hidden, [chunk.length for chunk in chunks])
        sampled = self._sample(chunks, parts)
        return [
            ChunkOutput(
                sampled.get(chunk.request.id),
                *read_prompt(chunk, part, self._decoder.logits, self._logits_rows),
            )
            for chunk, part in zip(chunks, parts, strict=True)
        ]

    def _sample(self, chunks: Sequence[Chunk], parts: Sequence[Tensor]) -> dict[str, Sampled]:
        """The next tokens, by request; parts are the chunks' hidden states."""
        last = [(c.request, p[-1]) for c, p in zip(chunks, parts, strict=True) if c.samples]
        if not last:
            return {}
        requests = [request for request, _ in last]
        logits = self._decoder.logits(torch.stack([row for _, row in last]))
        sampled = sample(logits, requests)
        # Ranks could differ in the last bit of a logit, and then in all that follows.
        tokens = self._decoder.group.broadcast(torch.tensor([s.token for s in sampled])).tolist()
        return {
            request.id: replace(one, token=token)
            for request, one, token in zip(requests, sampled, tokens, strict=True)
        }


def _own_blocks(chunk: Chunk) -> list[int]:
    """The request's block table. What has left the window is gathered too, and masked then: from a
    block of its own, since 0 times another request's infinity would not be 0.
    """
    table, passed = chunk.request.block_table, chunk.request.num_passed
    return [table[passed]] * passed + table[passed:]


def load(
    config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress
) -> tuple[Runner, KVSize]:
    """The runner with its weights and its cache."""
    if config.quantization is not None:
        raise ExecutionUnavailableError(f"plain torch has no --quantization {config.quantization}")
    spec = shard.spec
    name = choose_dtype(config.dtype, spec)
    group = join(rank, shard.size, torch.device("cpu"))
    size = KVSize(*group.minimum(astuple(size_kv_cache(config, spec, name))))
    torch.set_num_threads(max(1, cgroup.thread_count() // shard.size))
    dtype = getattr(torch, name)
    weights = dict(
        progress.watch(
            read_weights(Path(config.model), shard, dtype, config.load_format, config.seed)
        )
    )
    layout = KVLayout(size.num_blocks, config.block_size, dtype)
    runner = TorchRunner(
        Decoder(spec, weights, size.max_model_len, group),
        PagedTorchAttention(spec, layout),
        logits_rows(config.max_num_seqs),
    )
    return runner, size
