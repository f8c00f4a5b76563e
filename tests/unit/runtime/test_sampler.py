"""Choosing tokens: the right distribution, the right cut-offs, the same choice for the same
seed.
"""

import numpy as np
import pytest
import torch
from pagoda_runtime.engine import sampler
from pagoda_runtime.engine.sampler import Draw, sample

PROBABILITIES = [0.4, 0.3, 0.2, 0.1]
LOGITS = torch.tensor(PROBABILITIES).log()


def draws(
    count: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> list[Draw]:
    return [Draw(temperature, top_k, top_p, seed=5, position=i) for i in range(count)]


def frequencies(cases: list[Draw]) -> list[float]:
    tokens = sample(LOGITS.expand(len(cases), -1), cases)
    return (np.bincount(tokens, minlength=4) / len(cases)).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.71}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 99}, PROBABILITIES),
        ({"temperature": 1e-6}, [1, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
    ],
)
def test_distribution(options: dict[str, float], expected: list[float]) -> None:
    assert frequencies(draws(4000, **options)) == pytest.approx(expected, abs=0.03)


def test_top_p_over_more_tokens_than_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frequencies(draws(500, top_p=0.95))
    monkeypatch.setattr(sampler, "_CANDIDATES", 2)
    assert frequencies(draws(500, top_p=0.95)) == whole


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    cases = [
        Draw(t, k, p, seed=i, position=9)
        for i, (t, k, p) in enumerate([(0, 0, 1), (1, 0, 1), (1, 5, 0.9)] * 2)
    ]
    together = sample(logits, cases)
    assert together == [sample(logits[i : i + 1], [case])[0] for i, case in enumerate(cases)]


def test_impossible_tokens_are_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]])
    assert {sample(logits, [d])[0] for d in draws(200)} == {1, 3}


def test_an_impossible_first_token_is_not_chosen_even_by_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: 0.0)
    logits = torch.tensor([[-torch.inf, 0.0]])
    assert sample(logits, draws(1)) == [1]
