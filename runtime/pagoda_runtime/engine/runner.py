"""Runs one step on the model: chunks in, next tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pagoda_runtime.attention.base import AttentionBackend, SequenceChunk
from pagoda_runtime.engine.sampler import Draw, sample
from pagoda_runtime.engine.scheduler import Chunk
from pagoda_runtime.model.decoder import Decoder


class ModelRunner:
    """Turns the scheduler's chunks into one flat batch of tokens for the decoder."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend) -> None:
        self._decoder = decoder
        self._attention = attention

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> dict[str, int]:
        """Compute the chunks and return the next token of every request whose chunk samples, by
        request id.
        """
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
        draws = [
            Draw(
                r.params.temperature,
                r.params.top_k,
                r.params.top_p,
                r.params.seed or 0,
                r.num_tokens,
            )
            for r in requests
        ]
        return dict(zip((r.id for r in requests), sample(logits, draws), strict=True))
