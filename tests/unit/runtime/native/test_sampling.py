"""Sampling beside the head: the tokens that engine.sampler chooses, and the right frequencies."""

import ctypes
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.sampler import sample
from pagoda_runtime.native.library import InstructionSet, Model

from tests.unit.runtime.native.sequences import (
    VOCAB,
    Stream,
    logits_of,
    make_spec,
    make_weights,
    native_model,
    random_tokens,
    step,
)

ROWS = 24


@pytest.fixture
def model(library: ctypes.CDLL, instruction_set: InstructionSet) -> Model:
    spec = make_spec("llama")
    weights = make_weights(spec)
    weights["model.norm.weight"] *= 2  # Some tokens are likely, others are not.
    return native_model(library, spec, weights, instruction_set=instruction_set)


def expected(logits: npt.NDArray[np.float32], streams: list[Stream]) -> list[int]:
    """What the law in plain torch chooses."""
    requests = []
    for i, stream in enumerate(streams):
        params = SamplingParams(max_tokens=9, **stream.params)
        request = Request(str(i), stream.tokens[: stream.prompt], params)
        request.token_ids = stream.tokens
        requests.append(request)
    return [sampled.token for sampled in sample(torch.from_numpy(logits), requests)]


PENALTIES = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
BIAS = {"logit_bias": ((3, 4.0), (150, -100.0), (202, 2.5))}
CASES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, **PENALTIES, **BIAS},
    {"temperature": 1.0},
    {"temperature": 0.05},
    {"temperature": 5.0},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_k": 10_000},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.3},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.01, **PENALTIES, **BIAS},
    {"temperature": 1.0, "repetition_penalty": 0.5},
]


@pytest.mark.parametrize("params", CASES, ids=str)
def test_chooses_what_the_law_says(model: Model, params: dict[str, Any]) -> None:
    streams = [
        Stream(
            random_tokens(30, seed=i), [i], prompt=20, params={**params, "seed": 1000 * i - 5000}
        )
        for i in range(ROWS)
    ]
    result = step(model, [(stream, 30) for stream in streams])
    wanted = expected(logits_of(result), streams)
    assert result.tokens.tolist() == wanted
    # Whole distributions were exercised, not one token again and again.
    assert len(set(wanted)) > 3


def test_frequencies_are_the_probabilities(model: Model) -> None:
    """Chi-squared over 4,000 seeds against the distribution of the 12 most likely tokens."""
    params = {"temperature": 1.5, "top_k": 12}
    tokens = random_tokens(5, seed=9)
    counts: Counter[int] = Counter()
    draws, rows = 4_000, 100
    for first in range(0, draws, rows):
        streams = [Stream(tokens, [i], params={**params, "seed": first + i}) for i in range(rows)]
        result = step(model, [(stream, 5) for stream in streams])
        counts.update(result.tokens.tolist())
    logits = logits_of(result)[0].astype(np.float64)
    weights = np.exp((logits - logits.max()) / params["temperature"])
    allowed = np.argsort(-weights)[:12]
    assert set(counts) <= set(allowed.tolist())
    wanted = weights[allowed] / weights[allowed].sum() * draws
    got = np.array([counts[int(token)] for token in allowed])
    chi_squared = ((got - wanted) ** 2 / wanted).sum()
    # The 99.99 % quantile for 11 degrees of freedom.
    assert chi_squared < 37.4


def test_equal_logits_are_ordered_by_token(library: ctypes.CDLL) -> None:
    """With a head of zeros every logit is 0: filters keep the lowest tokens."""
    spec = make_spec("llama")
    weights = make_weights(spec)
    weights["lm_head.weight"].zero_()
    model = native_model(library, spec, weights)
    for params, most in (({"top_k": 5}, 5), ({"top_p": 0.1}, 21), ({}, VOCAB)):
        streams = [
            Stream([1, 2], [i], params={"temperature": 1.0, "seed": i, **params})
            for i in range(100)
        ]
        tokens = step(model, [(stream, 2) for stream in streams]).tokens
        assert tokens.max() < most
        assert len(set(tokens.tolist())) > most // 4
    stream = Stream([1, 2], [0], params={"temperature": 0.0, "top_logprobs": 3})
    result = step(model, [(stream, 2)])
    assert result.tokens[0] == 0
    assert result.top_tokens[0].tolist() == [0, 1, 2]


def test_logprobs_are_the_models_own(model: Model) -> None:
    wishes = [5, 0, -1, 20]
    streams = [
        Stream(
            random_tokens(30, seed=i),
            [i],
            prompt=20,
            params={"temperature": 0.9, "seed": i, "top_logprobs": wish, **PENALTIES, **BIAS},
        )
        for i, wish in enumerate(wishes)
    ]
    result = step(model, [(stream, 30) for stream in streams])
    logits = logits_of(result).astype(np.float64)
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert result.top_tokens.shape == (4, 20)
    for i, wish in enumerate(wishes):
        if wish < 0:
            continue
        best = np.argsort(-exact[i], kind="stable")[:wish]
        assert result.top_tokens[i, :wish].tolist() == best.tolist()
        np.testing.assert_allclose(result.top_values[i, :wish], exact[i, best], atol=2e-5)
        np.testing.assert_allclose(result.logprobs[i], exact[i, result.tokens[i]], atol=2e-5)


def test_a_row_is_chosen_the_same_in_any_company(model: Model) -> None:
    params = {"temperature": 1.1, "top_p": 0.9, "seed": 77, **PENALTIES, **BIAS}

    def stream(i: int) -> Stream:
        return Stream(random_tokens(20, seed=i), [i], prompt=9, params={**params, "seed": 70 + i})

    alone = [int(step(model, [(stream(i), 20)]).tokens[0]) for i in range(8)]
    assert step(model, [(stream(i), 20) for i in range(8)]).tokens.tolist() == alone
