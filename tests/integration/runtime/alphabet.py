"""A model whose answers are known: it recites the alphabet from wherever the prompt leaves off.

A letter is followed by the next letter, z by the end of the sequence, everything else by a; but a prompt
that is a question mark by any token at all, each as likely as the other.
"""

from pathlib import Path

from dev.toy_model import END, weights_for, write

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def write_alphabet_model(out: Path) -> None:
    """Write the model directory."""
    weights = weights_for(successor, seed=0)
    weights["model.embed_tokens.weight"][ord("?")] = 0.0
    write(out, weights)


def successor(token: int) -> int:
    """The token after a token."""
    if chr(token) not in ALPHABET:
        return ord("a")
    return END if token == ord("z") else token + 1
