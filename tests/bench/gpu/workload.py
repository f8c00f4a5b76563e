"""An offline workload after nano-vllm's benchmark: 256 requests of random lengths, none of which ends
before its length."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """Token ids of a prompt, and how many tokens the answer has."""

    prompt: list[int]
    answer: int


def questions(
    vocab: int, count: int = 256, shortest: int = 100, longest: int = 1024
) -> list[Question]:
    """Always the same ones."""
    rng = random.Random(0)
    return [
        Question(
            [rng.randrange(min(vocab, 10_000)) for _ in range(rng.randint(shortest, longest))],
            rng.randint(shortest, longest),
        )
        for _ in range(count)
    ]
