"""A model whose answers are known: it recites the alphabet from wherever the prompt leaves off.

Its layers add nothing, so each next token depends on the last one alone: a letter is followed by
the next letter, z by the end of the sequence, everything else by a.
"""

from pathlib import Path

import torch
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import parse_spec

from dev.toy_model import CONFIG, END, write

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def write_alphabet_model(out: Path) -> None:
    """Write the model directory."""
    weights = dummy_weights(parse_spec(CONFIG), torch.float32, 0)
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    # Tokens with the same successor look the same; other directions are random, so nearly orthogonal.
    embedding = weights["model.embed_tokens.weight"]
    head = torch.zeros_like(weights["lm_head.weight"])
    for token in range(len(embedding)):
        if chr(token) not in ALPHABET:
            embedding[token] = embedding[0]
        head[_next(token)] = embedding[token]
    weights["lm_head.weight"] = head
    write(out, weights)


def _next(token: int) -> int:
    if chr(token) not in ALPHABET:
        return ord("a")
    return END if token == ord("z") else token + 1
