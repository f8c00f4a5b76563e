"""The reference execution: one step in plain torch, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pagoda_runtime import cgroup
from pagoda_runtime.attention.base import AttentionBackend, KVLayout, SequenceChunk
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.kv_size import KVSize
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.sampler import sample
from pagoda_runtime.engine.step import Chunk, ExecutionUnavailableError, Sampled
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.loader import read_weights
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype

_NO_MEMORY = "DefaultCPUAllocator: "


class TorchRunner:
    """Turns the scheduler's chunks into one flat batch of tokens for the decoder."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend) -> None:
        self._decoder = decoder
        self._attention = attention

    def run(self, chunks: Sequence[Chunk]) -> dict[str, Sampled]:
        """See `Runner`."""
        try:
            return self._run(chunks)
        except RuntimeError as error:
            # torch.OutOfMemoryError is for devices; on the CPU only the message tells.
            if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY in str(error):
                raise MemoryError(str(error)) from error
            raise

    @torch.inference_mode()
    def _run(self, chunks: Sequence[Chunk]) -> dict[str, Sampled]:
        token_ids = [t for c in chunks for t in c.request.token_ids[c.start : c.end]]
        positions = [p for c in chunks for p in range(c.start, c.end)]
        self._attention.plan([SequenceChunk(c.start, c.end, c.request.block_table) for c in chunks])
        hidden = self._decoder.forward(
            torch.tensor(token_ids), torch.tensor(positions), self._attention.attend
        )
        last_rows, requests = [], []
        row = 0
        for chunk in chunks:
            row += chunk.length
            if chunk.samples:
                last_rows.append(row - 1)
                requests.append(chunk.request)
        if not requests:
            return {}
        logits = self._decoder.logits(hidden[last_rows])
        return {r.id: s for r, s in zip(requests, sample(logits, requests), strict=True)}


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
        Decoder(spec, weights, size.max_model_len), PagedTorchAttention(spec, layout)
    )
