"""What is read of prompts, log-probabilities and hidden states, through the engine: as close to
exact arithmetic as torch's, and the same bits however requests share steps, blocks and logits.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pagoda_runtime.attention.base import KVLayout
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import Runner
from pagoda_runtime.engine.torch_runner import TorchRunner
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.native.library import InstructionSet
from pagoda_runtime.native.runner import NativeRunner

from tests.unit.runtime.native.sequences import (
    CONFIGS,
    make_spec,
    make_weights,
    native_model,
    random_tokens,
)

BLOCK, MAX_LEN = 8, 96
# Prompts of these lengths begin with parts of one text.
LENGTHS = [1, 9, 33, 50, 70]
COMMON_TEXT = 26
# W8A8 against fp32, as in test_forward. Measured: 0.004 to 0.038 for these models.
INT8_ERROR = 0.05


@dataclass(frozen=True)
class Way:
    """One way to serve the requests."""

    budget: int = 256
    blocks: int = 200
    caching: bool = True
    logits_rows: int = 256
    threads: int = 1


ROOMY = Way()
WAYS = [
    Way(budget=7),
    Way(caching=False, logits_rows=5),
    Way(budget=40, blocks=MAX_LEN // BLOCK + 3, threads=2),
    Way(budget=9, blocks=MAX_LEN // BLOCK + 3, caching=False, logits_rows=1),
]


Params = SamplingParams | PoolingParams


def serve(
    runner: Runner, way: Way, requests: dict[str, tuple[list[int], Params]]
) -> tuple[dict[str, list[Delta]], int]:
    """What each request heard, and how often one was preempted."""
    scheduler = Scheduler(
        BlockPool(way.blocks, BLOCK),
        max_num_seqs=min(7, way.budget),
        max_num_batched_tokens=way.budget,
        max_model_len=MAX_LEN,
        enable_prefix_caching=way.caching,
    )
    core = EngineCore(runner, scheduler)
    for name, (prompt, params) in requests.items():
        core.add(Request(name, prompt, params))
    heard: dict[str, list[Delta]] = {}
    while core.has_work:
        for delta in core.step()[0]:
            heard.setdefault(delta.id, []).append(delta)
    return heard, core.stats().preemptions_total


def every_kind() -> dict[str, tuple[list[int], Params]]:
    """Every kind of request for every prompt."""
    text = random_tokens(COMMON_TEXT, seed=0)
    kinds: dict[str, Params] = {
        "answer": SamplingParams(max_tokens=26, temperature=0.0),
        "scores": SamplingParams(max_tokens=0, prompt_logprobs=4),
        "both": SamplingParams(max_tokens=20, temperature=0.9, seed=3, prompt_logprobs=0),
        "last": PoolingParams("last"),
        "mean": PoolingParams("mean"),
        "cls": PoolingParams("cls"),
    }
    return {
        f"{kind} {length}": ((text[:length] + random_tokens(length, seed=length))[:length], params)
        for kind, params in kinds.items()
        for length in LENGTHS
    }


def native_runner(
    library: ctypes.CDLL, name: str, way: Way, instruction_set: InstructionSet, *, int8: bool
) -> NativeRunner:
    spec = make_spec(name)
    model = native_model(
        library,
        spec,
        make_weights(spec),
        block_size=BLOCK,
        num_blocks=way.blocks,
        max_tokens=way.budget,
        logits_rows=way.logits_rows,
        threads=way.threads,
        int8=int8,
        instruction_set=instruction_set,
    )
    return NativeRunner(model, BLOCK, spec.hidden_size)


def torch_runner(name: str, dtype: torch.dtype) -> TorchRunner:
    torch.set_num_threads(1)  # For models this small a second one only waits.
    spec = make_spec(name)
    weights = {key: weight.to(dtype) for key, weight in make_weights(spec).items()}
    attention = PagedTorchAttention(spec, KVLayout(ROOMY.blocks, BLOCK, dtype))
    return TorchRunner(Decoder(spec, weights, MAX_LEN), attention, logits_rows=16)


def bits(heard: dict[str, list[Delta]]) -> dict[str, Any]:
    return {
        name: (
            [token for delta in deltas for token in delta.token_ids],
            deltas[0].prompt_logprobs,
            deltas[0].embedding,
            deltas[-1].finish_reason,
        )
        for name, deltas in heard.items()
    }


@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
@pytest.mark.parametrize("name", ["llama-biases-tied-llama3-rope", "mistral-window"])
def test_bits_do_not_depend_on_chunks_batch_preemption_or_turns(
    library: ctypes.CDLL, name: str, instruction_set: InstructionSet, int8: bool
) -> None:
    roomy, _ = serve(
        native_runner(library, name, ROOMY, instruction_set, int8=int8), ROOMY, every_kind()
    )
    assert len(roomy) == len(every_kind())
    for way in WAYS:
        heard, preemptions = serve(
            native_runner(library, name, way, instruction_set, int8=int8), way, every_kind()
        )
        assert bits(heard) == bits(roomy), way
        assert (preemptions > 0) == (way.blocks < ROOMY.blocks)


READ = ("scores", "last", "mean", "cls")


def numbers(heard: dict[str, list[Delta]]) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of the prompts' own tokens, and embeddings, by kind."""
    result = {}
    for kind in READ:
        values: list[float] = []
        for length in LENGTHS:
            (delta,) = heard[f"{kind} {length}"]
            values += delta.embedding or []
            values += [score.logprob or 0.0 for score in delta.prompt_logprobs if score]
        result[kind] = np.array(values)
    return result


def error(got: npt.NDArray[np.float64], exact: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("name", CONFIGS)
def test_error_is_not_above_torchs(
    library: ctypes.CDLL, name: str, instruction_set: InstructionSet
) -> None:
    requests = {who: what for who, what in every_kind().items() if who.split()[0] in READ}
    exact, half, ours, int8 = (
        numbers(serve(runner, ROOMY, requests)[0])
        for runner in (
            torch_runner(name, torch.float32),
            torch_runner(name, torch.bfloat16),
            native_runner(library, name, ROOMY, instruction_set, int8=False),
            native_runner(library, name, ROOMY, instruction_set, int8=True),
        )
    )
    for kind in exact:
        assert error(ours[kind], exact[kind]) <= error(half[kind], exact[kind]), kind
        assert error(int8[kind], exact[kind]) <= INT8_ERROR, kind


@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
def test_an_answer_scored_as_a_prompt_is_as_likely_as_when_it_was_chosen(
    library: ctypes.CDLL, instruction_set: InstructionSet, int8: bool
) -> None:
    runner = native_runner(library, "llama", ROOMY, instruction_set, int8=int8)
    prompt = random_tokens(19, seed=1)
    answer = SamplingParams(max_tokens=30, temperature=0.8, seed=5, logprobs=4)
    said = serve(runner, ROOMY, {"said": (prompt, answer)})[0]["said"]
    logprobs = [sampled for delta in said for sampled in delta.logprobs]
    tokens = [sampled.token for sampled in logprobs]
    scores = SamplingParams(max_tokens=0, prompt_logprobs=4)
    (scored,) = serve(runner, ROOMY, {"scored": (prompt + tokens, scores)})[0]["scored"]
    assert scored.prompt_logprobs[len(prompt) :] == logprobs
