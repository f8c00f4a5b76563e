"""Paged attention against attention over plain rows."""

import math

import pytest
import torch
from pagoda_runtime.attention import paged_torch
from pagoda_runtime.attention.base import KVLayout, SequenceChunk
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.model.spec import parse_spec

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 8, 4


def attention(window: int | None) -> PagedTorchAttention:
    spec = parse_spec(
        {
            "architectures": ["MistralForCausalLM"],
            "vocab_size": 8,
            "hidden_size": HEADS * DIM,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 64,
            "sliding_window": window,
        }
    )
    return PagedTorchAttention(spec, KVLayout(12, BLOCK, torch.float32))


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """One token after another, one head after another."""
    out = torch.empty_like(q)
    for t in range(len(q)):
        first = 0 if window is None else max(0, t + 1 - window)
        for head in range(HEADS):
            kv = head // (HEADS // KV_HEADS)
            scores = k[first : t + 1, kv] @ q[t, head] / math.sqrt(DIM)
            out[t, head] = scores.softmax(0) @ v[first : t + 1, kv]
    return out


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("most_scores", [1, 150, 1 << 24])
def test_two_sequences_in_chunks_over_scattered_blocks(
    monkeypatch: pytest.MonkeyPatch, window: int | None, most_scores: int
) -> None:
    monkeypatch.setattr(paged_torch, "_MOST_SCORES", most_scores)
    torch.manual_seed(0)
    tables = [[7, 2, 9, 0, 5], [3, 11, 1]]
    lengths = [19, 10]
    qkv = [[torch.randn(n, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)] for n in lengths]
    paged = attention(window)
    outs: list[list[torch.Tensor]] = [[], []]
    # Steps of (start, end) per sequence: prompts in chunks, then one token beside a chunk.
    for step in [[(0, 6), (0, 9)], [(6, 18), (9, 10)], [(18, 19), None]]:
        present = [(i, part) for i, part in enumerate(step) if part is not None]
        paged.plan([SequenceChunk(*part, tables[i]) for i, part in present])
        rows = [torch.cat([qkv[i][kind][slice(*part)] for i, part in present]) for kind in range(3)]
        out = paged.attend(0, *rows)
        for i, (start, end) in present:
            outs[i].append(out[: end - start])
            out = out[end - start :]
    for i in range(2):
        torch.testing.assert_close(torch.cat(outs[i]), plain(*qkv[i], window))
