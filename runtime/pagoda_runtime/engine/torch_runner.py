"""The reference execution: one step in plain torch, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pagoda_runtime import cgroup
from pagoda_runtime.attention.base import AttentionBackend, KVLayout, SequenceChunk
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.kv_size import KVSize, logits_rows
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.request import PoolingParams
from pagoda_runtime.engine.sampler import sample, score
from pagoda_runtime.engine.step import Chunk, ChunkOutput, ExecutionUnavailableError, Sampled
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.loader import read_weights
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype

_NO_MEMORY = "DefaultCPUAllocator: "


class TorchRunner:
    """Turns the scheduler's chunks into one flat batch of tokens for the decoder."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend, logits_rows: int) -> None:
        self._decoder = decoder
        self._attention = attention
        self._logits_rows = logits_rows

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """See `Runner`."""
        try:
            return self._run(chunks)
        except RuntimeError as error:
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
            ChunkOutput(sampled.get(chunk.request.id), *self._read(chunk, part))
            for chunk, part in zip(chunks, parts, strict=True)
        ]

    def _sample(self, chunks: Sequence[Chunk], parts: Sequence[Tensor]) -> dict[str, Sampled]:
        """The next tokens, by request; parts are the chunks' hidden states."""
        last = [(c.request, p[-1]) for c, p in zip(chunks, parts, strict=True) if c.samples]
        if not last:
            return {}
        requests = [request for request, _ in last]
        logits = self._decoder.logits(torch.stack([row for _, row in last]))
        return {r.id: s for r, s in zip(requests, sample(logits, requests), strict=True)}

    def _read(self, chunk: Chunk, hidden: Tensor) -> tuple[Sequence[Sampled], list[float] | None]:
        """What the request wants of its prompt: prompt_logprobs and hidden_sum of a ChunkOutput."""
        request, wanted = chunk.request, chunk.wanted
        if not wanted:
            return (), None
        rows = hidden[wanted.start - chunk.start : wanted.stop - chunk.start]
        if isinstance(request.params, PoolingParams):
            total = rows.sum(dim=0, dtype=torch.float64)
            if request.hidden_sum is not None:
                total += torch.tensor(request.hidden_sum, dtype=torch.float64)
            return (), total.tolist()
        count = request.params.prompt_logprobs
        assert count is not None
        targets = request.prompt_ids[wanted.start + 1 : wanted.stop + 1]
        scores: list[Sampled] = []
        for begin in range(0, len(rows), self._logits_rows):
            some = slice(begin, begin + self._logits_rows)
            scores += score(self._decoder.logits(rows[some]), targets[some], count)
        return scores, None


def _own_blocks(chunk: Chunk) -> list[int]:
    """The request's block table. What has left the window is gathered too, and masked then: from a
    block of its own, since 0 times another request's infinity would not be 0.
    """
    table, passed = chunk.request.block_table, chunk.request.num_passed
    return [table[passed]] * passed + table[passed:]


def load(
    config: EngineConfig, spec: DecoderSpec, size: KVSize, progress: LoadProgress
) -> TorchRunner:
    """The runner with its weights and its cache."""
    if config.quantization is not None:
        raise ExecutionUnavailableError(f"plain torch has no --quantization {config.quantization}")
    torch.set_num_threads(cgroup.thread_count())
    dtype = getattr(torch, choose_dtype(config.dtype, spec))
    weights = dict(
        progress.watch(
            read_weights(Path(config.model), spec, dtype, config.load_format, config.seed)
        )
    )
    layout = KVLayout(size.num_blocks, config.block_size, dtype)
    return TorchRunner(
        Decoder(spec, weights, size.max_model_len),
        PagedTorchAttention(spec, layout),
        logits_rows(config.max_num_seqs),
    )
