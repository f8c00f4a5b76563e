"""Logits of the C++ execution: as close to exact arithmetic as torch's, and the same bits whatever
shares a step.
"""

import ctypes

import numpy as np
import pytest
import torch
from pagoda_runtime.native.library import InstructionSet, NativeError

from tests.unit.runtime.native.sequences import (
    CONFIGS,
    Stream,
    logits_of,
    make_spec,
    make_weights,
    native_model,
    random_tokens,
    step,
    torch_logits,
)

# W8A8 with one scale per output and token, on random weights, against fp32. Measured: 0.023 to
# 0.042 for these models.
INT8_ERROR = 0.05


def error(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("name", CONFIGS)
def test_error_is_not_above_torchs(
    library: ctypes.CDLL, name: str, instruction_set: InstructionSet
) -> None:
    spec = make_spec(name)
    weights = make_weights(spec)
    tokens = random_tokens(90, seed=1)
    exact = torch_logits(spec, weights, tokens, torch.float32)
    model = native_model(library, spec, weights, instruction_set=instruction_set)
    stream = Stream(tokens, [7, 3, 5])
    got = np.concatenate([logits_of(step(model, [(stream, 1)])) for _ in tokens])
    assert error(got, exact) <= error(torch_logits(spec, weights, tokens, torch.bfloat16), exact)

    model = native_model(library, spec, weights, instruction_set=instruction_set, int8=True)
    stream = Stream(tokens, [7, 3, 5])
    got = np.concatenate([logits_of(step(model, [(stream, 1)])) for _ in tokens])
    assert error(got, exact) <= INT8_ERROR


@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_do_not_depend_on_chunks_batch_blocks_or_threads(
    library: ctypes.CDLL, name: str, instruction_set: InstructionSet, int8: bool
) -> None:
    spec = make_spec(name)
    weights = make_weights(spec)
    block_size = 8
    tokens = random_tokens(620, seed=2)  # More than a segment of the context.

    def model(threads: int):
        return native_model(
            library,
            spec,
            weights,
            block_size=block_size,
            num_blocks=400,
            threads=threads,
            int8=int8,
            instruction_set=instruction_set,
        )

    blocks = list(range(1, 79))
    alone = logits_of(step(model(1), [(Stream(tokens, blocks), len(tokens))]))[0]

    two = model(2)
    for length in (1, 7, 61, 256):
        stream = Stream(tokens, blocks[::-1])
        while stream.computed < len(tokens):
            result = step(two, [(stream, min(length, len(tokens) - stream.computed))])
        assert np.array_equal(logits_of(result)[0], alone), f"chunks of {length}"

    # Beside others that prefill and decode, its blocks scattered, its prefix from an earlier request.
    prefix = Stream(tokens[:304], [200 + 3 * i for i in range(38)])
    step(two, [(prefix, 300), (Stream(random_tokens(11, 3), [190, 191]), 11)])
    shared = Stream(tokens, [*prefix.blocks, *range(40)], computed=296)
    others = [
        Stream(random_tokens(90, 10 + i), [50 + 13 * i + j for j in range(13)]) for i in range(5)
    ]
    step(two, [(other, 20 * i + 1) for i, other in enumerate(others)])
    while shared.computed < len(tokens):
        count = min(54, len(tokens) - shared.computed)
        result = step(two, [(others[0], 1), (others[3], 2), (shared, count), (others[1], 1)])
    assert np.array_equal(logits_of(result)[2], alone)


def test_a_poisoned_request_stays_alone(
    library: ctypes.CDLL, instruction_set: InstructionSet
) -> None:
    """A weight that makes one token's values infinite must not reach whoever gets its slot next."""
    spec = make_spec("llama")
    weights = make_weights(spec)
    weights["model.embed_tokens.weight"][0] = float("inf")
    model = native_model(library, spec, weights, instruction_set=instruction_set)
    tokens = [token or 1 for token in random_tokens(33, seed=4)]
    clean = logits_of(step(model, [(Stream(tokens, [4, 5]), 33)]))
    assert not np.isfinite(logits_of(step(model, [(Stream([0] * 64, [4, 5]), 64)]))).any()
    again = logits_of(step(model, [(Stream(tokens, [4, 5]), 33)]))
    assert np.array_equal(clean, again)


def test_an_int8_row_is_scaled_by_nothing_but_itself(
    library: ctypes.CDLL, instruction_set: InstructionSet
) -> None:
    """Values a thousand times smaller, and the output's weights larger by that: the same bits. What
    an earlier stage left behind attention's output, in the row's padding, is as large as ever.
    """
    spec = make_spec("llama-biases-tied-llama3-rope")  # 40 of 48 columns are attention's.
    tokens = random_tokens(9, seed=6)
    results = []
    for factor in (1, 1 / 1024):
        weights = make_weights(spec)
        for layer in range(spec.num_layers):
            attention = f"model.layers.{layer}.self_attn"
            weights[f"{attention}.v_proj.weight"] *= factor
            weights[f"{attention}.v_proj.bias"] *= factor
            weights[f"{attention}.o_proj.weight"] /= factor
        model = native_model(library, spec, weights, int8=True, instruction_set=instruction_set)
        results.append(logits_of(step(model, [(Stream(tokens, [0]), 9)])))
    assert np.array_equal(*results)


def test_float_weights_are_rounded_to_bfloat16(library: ctypes.CDLL) -> None:
    spec = make_spec("qwen3")
    weights = make_weights(spec)
    tokens = random_tokens(9, seed=5)
    as_floats = {name: weight.float() for name, weight in weights.items()}
    results = [
        logits_of(step(native_model(library, spec, given, threads=1), [(Stream(tokens, [0]), 9)]))
        for given in (weights, as_floats)
    ]
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    ("stream", "count", "message"),
    [
        (Stream([1, 2], [128]), 2, "block that is not there"),
        (Stream([1, 2], [-1]), 2, "block that is not there"),
        (Stream([1] * 33, [0]), 33, "outside its block table"),
        (Stream([1, 203], [0]), 2, "not in the vocabulary"),
        (Stream([1] * 1025, list(range(33))), 1025, "more tokens than max_tokens"),
    ],
)
def test_what_cannot_be_is_refused(
    library: ctypes.CDLL, stream: Stream, count: int, message: str
) -> None:
    spec = make_spec("llama")
    model = native_model(library, spec, make_weights(spec))
    with pytest.raises(NativeError, match=message):
        step(model, [(stream, count)])
