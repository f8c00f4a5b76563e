"""Sampling beside the head: the same tokens as a plain sort chooses, and the right frequencies."""

import ctypes
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pagoda_runtime.engine.philox import uniform
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

Doubles = npt.NDArray[np.float64]
ROWS = 24


@pytest.fixture
def model(library: ctypes.CDLL, instruction_set: InstructionSet) -> Model:
    spec = make_spec("llama")
    weights = make_weights(spec)
    weights["model.norm.weight"] *= 2  # Some tokens are likely, others are not.
    return native_model(library, spec, weights, instruction_set=instruction_set)


def adjusted(logits: Doubles, stream: Stream, params: dict[str, Any]) -> Doubles:
    """Bias, then penalties."""
    x = logits.copy()
    for token, bias in params.get("logit_bias", ()):
        x[token] += bias
    prompt = stream.tokens[: stream.prompt]
    counts = Counter(stream.tokens[stream.prompt :])
    repetition = params.get("repetition_penalty", 1.0)
    for token in {*prompt, *counts}:
        x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
    for token, count in counts.items():
        x[token] -= params.get("frequency_penalty", 0.0) * count
        x[token] -= params.get("presence_penalty", 0.0)
    return x


def kept(weights: Doubles, params: dict[str, Any]) -> npt.NDArray[np.intp]:
    """Tokens that min_p, top_k and top_p leave, in order of tokens. The heaviest weighs 1."""
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] >= params.get("min_p", 0.0)]
    order = order[: params.get("top_k", 0) or None]
    mass = weights[order].cumsum()
    needed = params.get("top_p", 1.0) * mass[-1]
    if params.get("top_p", 1.0) < 1:
        order = order[: int((mass < needed).sum()) + 1]
    return np.sort(order)


def expected(logits: Doubles, stream: Stream, params: dict[str, Any]) -> int:
    x = adjusted(logits, stream, params)
    if params["temperature"] == 0:
        return int(x.argmax())
    weights = np.exp((x - x.max()) / params["temperature"])
    tokens = kept(weights, params)
    cumulative = weights[tokens].cumsum()
    target = uniform(params["seed"], len(stream.tokens)) * cumulative[-1]
    return int(tokens[np.searchsorted(cumulative, target, side="right")])


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
def test_chooses_what_a_sort_would(model: Model, params: dict[str, Any]) -> None:
    streams = [
        Stream(
            random_tokens(30, seed=i), [i], prompt=20, params={**params, "seed": 1000 * i - 5000}
        )
        for i in range(ROWS)
    ]
    result = step(model, [(stream, 30) for stream in streams])
    exact = logits_of(result).astype(np.float64)
    wanted = [expected(exact[i], streams[i], streams[i].params) for i in range(ROWS)]
    assert result.tokens.tolist() == wanted
    # Whole distributions were exercised, not one token again and again.
    assert len(set(wanted)) > 3


def test_frequencies_are_the_probabilities(model: Model) -> None:
    """Chi-squared over 4,000 seeds against the filtered distribution."""
    params = {"temperature": 1.5, "top_p": 0.8, "top_k": 12}
    tokens = random_tokens(5, seed=9)
    counts: Counter[int] = Counter()
    draws, rows = 4_000, 100
    for first in range(0, draws, rows):
        streams = [Stream(tokens, [i], params={**params, "seed": first + i}) for i in range(rows)]
        result = step(model, [(stream, 5) for stream in streams])
        counts.update(result.tokens.tolist())
    logits = logits_of(result)[0].astype(np.float64)
    weights = np.exp((logits - logits.max()) / params["temperature"])
    allowed = kept(weights, params)
    assert set(counts) <= set(allowed.tolist())
    wanted = weights[allowed] / weights[allowed].sum() * draws
    got = np.array([counts[int(token)] for token in allowed])
    chi_squared = ((got - wanted) ** 2 / wanted).sum()
    # The 99.99 % quantile for 11 degrees of freedom is 37.4; fewer tokens have a lower one.
    assert 4 < len(allowed) <= 12
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
