"""Choosing tokens: each parameter's rule, the right distributions, log-probabilities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pagoda_runtime.engine import sampler
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.sampler import sample

PROBABILITIES = [0.4, 0.3, 0.2, 0.1]
LOGITS = torch.tensor(PROBABILITIES).log()


def request(
    *, prompt: tuple[int, ...] = (0,), answer: tuple[int, ...] = (), **params: Any
) -> Request:
    r = Request("x", list(prompt), SamplingParams(max_tokens=1, **({"seed": 5} | params)))
    r.token_ids += answer
    return r


def token(logits: torch.Tensor, r: Request) -> int:
    return sample(logits[None], [r])[0].token


def observed(logits: torch.Tensor, count: int, **options: Any) -> list[int]:
    """How often each token was chosen, each time with another seed."""
    requests = [request(seed=seed, **options) for seed in range(count)]
    chosen = sample(logits.expand(count, -1), requests)
    return np.bincount([c.token for c in chosen], minlength=len(logits)).tolist()


# --- distributions ------------------------------------------------------------------------------


def chi_square(counts: list[int], expected: list[float]) -> float:
    """Pearson's statistic; tokens that must not occur make it infinite when they do."""
    total = sum(counts)
    return sum(
        (n - total * p) ** 2 / (total * p) if p > 0 else math.inf * n if n else 0.0
        for n, p in zip(counts, expected, strict=True)
    )


# Above these the chance is 1 in 1,000; by degrees of freedom, from tables.
CRITICAL = {0: 1e-9, 1: 10.83, 2: 13.82, 3: 16.27, 99: 148.23}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 2.0}, [0.3253, 0.2817, 0.2300, 0.1630]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 99}, PROBABILITIES),
        ({"top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.71}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 2, "top_p": 0.57}, [1, 0, 0, 0]),
        ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"min_p": 0.4, "top_p": 0.8}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"min_p": 0.4, "top_p": 0.75}, [4 / 7, 3 / 7, 0, 0]),
        ({"logit_bias": ((3, math.log(4)), (0, -100.0))}, [0, 3 / 9, 2 / 9, 4 / 9]),
        ({"min_tokens": 1, "stop_token_ids": (0, 3, 9)}, [0, 3 / 5, 2 / 5, 0]),
        (
            {"min_tokens": 1, "stop_token_ids": (0,), "logit_bias": ((0, 99.0),)},
            [0, 3 / 6, 2 / 6, 1 / 6],
        ),
        ({"min_tokens": 2, "stop_token_ids": (0,), "answer": (1, 1)}, PROBABILITIES),
        ({"temperature": 1e-6}, [1, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
    ],
)
def test_distribution(options: dict[str, Any], expected: list[float]) -> None:
    counts = observed(LOGITS, 2000, **options)
    assert chi_square(counts, expected) < CRITICAL[sum(p > 0 for p in expected) - 1]


def test_distribution_over_positions_and_many_tokens() -> None:
    """One seed, as within one answer."""
    torch.manual_seed(0)
    logits = torch.randn(100)
    answers = [request(answer=(1,) * n) for n in range(4000)]
    chosen = [c.token for c in sample(logits.expand(4000, -1), answers)]
    counts = np.bincount(chosen, minlength=100).tolist()
    assert chi_square(counts, logits.softmax(0).tolist()) < CRITICAL[99]


def test_of_equal_tokens_the_lower_ones_stay() -> None:
    equal = torch.zeros(4)
    assert chi_square(observed(equal, 500, top_k=2), [0.5, 0.5, 0, 0]) < CRITICAL[1]
    assert chi_square(observed(equal, 500, top_p=0.6), [1 / 3, 1 / 3, 1 / 3, 0]) < CRITICAL[2]
    assert token(equal, request(temperature=0.0)) == 0


@pytest.mark.parametrize("number", [0.0, 0.3, 1 - 2**-53])
def test_the_number_picks_in_order_of_tokens(
    monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda seed, position: number)
    logits = torch.tensor([-torch.inf, 0.1, 0.3, 0.2, -torch.inf])
    assert token(logits, request()) == {0.0: 1, 0.3: 1, 1 - 2**-53: 3}[number]


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    requests = [
        request(temperature=t, top_k=k, top_p=p, seed=i, answer=(i, 3))
        for i, (t, k, p) in enumerate([(0, 0, 1), (1, 0, 1), (1, 5, 0.9)] * 2)
    ]
    together = sample(logits, requests)
    assert together == [sample(logits[i : i + 1], [r])[0] for i, r in enumerate(requests)]


# --- penalties and bias -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repetition_penalty": 2.0}, [1.0, 0.5, -2.0, 0.25]),
        ({"presence_penalty": 0.7}, [2.0, 1.0, -1.7, -0.2]),
        ({"frequency_penalty": 0.7}, [2.0, 1.0, -1.7, -0.9]),
        ({"frequency_penalty": -0.5, "presence_penalty": 0.1}, [2.0, 1.0, -0.6, 1.4]),
        ({"repetition_penalty": 2.0, "presence_penalty": 1.0}, [1.0, 0.5, -3.0, -0.75]),
        ({"logit_bias": ((1, 3.0), (2, -1.0))}, [2.0, 4.0, -2.0, 0.5]),
        ({"logit_bias": ((4, 9.0), (-1, 9.0))}, [2.0, 1.0, -1.0, 0.5]),
        ({"logit_bias": ((0, 2.0),), "repetition_penalty": 2.0}, [2.0, 0.5, -2.0, 0.25]),
    ],
)
def test_penalties_and_bias(options: dict[str, Any], expected: list[float]) -> None:
    """Prompt 0 1, answer 3 2 3."""
    logits = torch.tensor([2.0, 1.0, -1.0, 0.5])
    adjusted = sampler.adjust(logits, request(prompt=(0, 1), answer=(3, 2, 3), **options))
    assert adjusted.tolist() == pytest.approx(expected)
    assert logits.tolist() == [2.0, 1.0, -1.0, 0.5], "the model's own logits stay"


def test_penalties_and_bias_change_greedy_answers_too() -> None:
    greedy = {"temperature": 0.0, "answer": (0,)}
    assert token(LOGITS, request(**greedy)) == 0
    assert token(LOGITS, request(**greedy, presence_penalty=1.0)) == 1
    assert token(LOGITS, request(**greedy, logit_bias=((3, 5.0),))) == 3


# --- log-probabilities --------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_the_models_whatever_the_parameters(temperature: float) -> None:
    options = {"temperature": temperature, "logit_bias": ((3, 100.0),), "top_k": 1}
    (chosen,) = sample(LOGITS[None], [request(logprobs=2, **options)])
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(math.log(0.1))
    assert [t for t, _ in chosen.top_logprobs] == [0, 1]
    assert [p for _, p in chosen.top_logprobs] == pytest.approx([math.log(0.4), math.log(0.3)])


@pytest.mark.parametrize(("logprobs", "alternatives"), [(0, 0), (1, 1), (20, 4)])
def test_number_of_alternatives(logprobs: int, alternatives: int) -> None:
    (chosen,) = sample(LOGITS[None], [request(logprobs=logprobs)])
    assert len(chosen.top_logprobs) == alternatives
    assert chosen.logprob is not None


def test_no_logprobs_unless_asked_for() -> None:
    (chosen,) = sample(LOGITS[None], [request()])
    assert (chosen.logprob, chosen.top_logprobs) == (None, ())


def test_a_given_token_is_scored_as_a_chosen_one_would_be() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    first, second = sampler.score(rows, [2, 0], 1)
    assert (first.token, second.token) == (2, 0)
    assert first.logprob == pytest.approx(math.log(0.2))
    assert second.logprob == pytest.approx(math.log(0.1))
    assert [[t for t, _ in s.top_logprobs] for s in (first, second)] == [[0], [3]]
    assert sampler.score(rows, [2, 0], 0)[1].top_logprobs == ()
