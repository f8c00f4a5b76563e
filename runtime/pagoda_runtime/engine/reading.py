"""What a request wants of its prompt beside the answer, in torch: log-probabilities or pooled states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pagoda_runtime.engine.request import PoolingParams
from pagoda_runtime.engine.sampler import score
from pagoda_runtime.engine.step import Chunk, Sampled


def read_prompt(
    chunk: Chunk, hidden: Tensor, logits: Callable[[Tensor], Tensor], rows_at_once: int
) -> tuple[Sequence[Sampled], list[float] | None]:
    """Give `prompt_logprobs` and `hidden_sum` of a ChunkOutput.

    Args:
        chunk: of one request.
        hidden: its final hidden states, [tokens, hidden].
        logits: of such rows, [rows, hidden] → [rows, vocab] float32.
        rows_at_once: the most rows that it may be asked for.
    """
    request, wanted = chunk.request, chunk.wanted
    if not wanted:
        return (), None
    rows = hidden[wanted.start - chunk.start : wanted.stop - chunk.start]
    if isinstance(request.params, PoolingParams):
        total = rows.sum(dim=0, dtype=torch.float64)
        if request.hidden_sum is not None:
            total += torch.tensor(request.hidden_sum, dtype=torch.float64, device=total.device)
        return (), total.tolist()
    count = request.params.prompt_logprobs
    assert count is not None
    targets = request.prompt_ids[wanted.start + 1 : wanted.stop + 1]
    scores: list[Sampled] = []
    for begin in range(0, len(rows), rows_at_once):
        some = slice(begin, begin + rows_at_once)
        scores += score(logits(rows[some]), targets[some], count)
    return scores, None
