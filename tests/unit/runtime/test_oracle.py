"""Greedy answers equal transformers' token for token in fp32, however requests share steps, blocks
and budgets.

Weights are random and large, so that the best token leads by far more than rounding can move.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import pytest
import torch
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.kv_size import block_bytes
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.step import Sampled
from pagoda_runtime.model.spec import read_spec
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# The reference; on a machine with a GPU, what runs there.
EXECUTION: Literal["cuda", "torch"] = "cuda" if torch.cuda.is_available() else "torch"
VOCAB, MAX_LEN, BLOCK = 128, 96, 8
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LEN,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, num_hidden_layers=3)),
    "llama-scaled-rope-biases-tied": lambda: LlamaForCausalLM(
        LlamaConfig(
            **COMMON,
            num_hidden_layers=2,
            head_dim=32,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    ),
    "llama-linear-rope": lambda: LlamaForCausalLM(
        LlamaConfig(
            **COMMON,
            num_hidden_layers=2,
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
        )
    ),
    "mistral-window": lambda: MistralForCausalLM(
        MistralConfig(**COMMON, num_hidden_layers=2, head_dim=32, sliding_window=29)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**COMMON, num_hidden_layers=2)),
    "qwen2-half-windows": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **COMMON,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=13,
            max_window_layers=2,
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, num_hidden_layers=2, head_dim=32)),
}


# The prompts begin with parts of one text, so that there is something for the prefix cache to find.
COMMON_TEXT = 28
# Below this lead of the best token over the second, rounding decides.
TIE = 1e-4


@dataclass(frozen=True)
class Case:
    """One question: how many answers at once, when it joins (step), how long it is, and when it is
    taken away, if it is.
    """

    join: int
    prompt: int
    answer: int
    leave: int | None = None
    n: int = 1


CASES = [
    Case(0, 1, 30),
    Case(0, 33, 40, n=3),
    Case(2, 17, 12),
    Case(5, 50, 46),
    Case(5, 8, 25, leave=14),
    Case(9, 24, 1, n=3),
    Case(15, 40, 20),
]


@dataclass(frozen=True)
class Way:
    """One way to serve the cases."""

    budget: int
    caching: bool
    tight: bool
    several: bool
    traffic: bool  # Requests join and leave midway.


# Every pair of values of two fields is in one of these.
WAYS = [
    Way(budget=7, caching=True, tight=False, several=False, traffic=False),
    Way(budget=7, caching=False, tight=True, several=True, traffic=True),
    Way(budget=32, caching=True, tight=True, several=False, traffic=True),
    Way(budget=32, caching=False, tight=False, several=True, traffic=False),
    Way(budget=256, caching=True, tight=False, several=True, traffic=True),
    Way(budget=256, caching=False, tight=True, several=False, traffic=False),
]


def test_the_ways_are_pairwise() -> None:
    rows = [astuple(way) for way in WAYS]
    for i, j in combinations(range(len(fields(Way))), 2):
        pairs = product({row[i] for row in rows}, {row[j] for row in rows})
        assert {(row[i], row[j]) for row in rows} == set(pairs)


@dataclass(frozen=True)
class Oracle:
    """What transformers says. Answers end where it is undecided."""

    path: Path
    prompts: list[list[int]]
    answers: list[list[int]]
    logprobs: list[torch.Tensor]  # of the token after each of the prompt's, [prompt, vocab]
    hidden: list[torch.Tensor]  # last_hidden_state of the prompt, [prompt, hidden]


@pytest.fixture(scope="module", params=MODELS)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):  # Ones and zeros would hide a mistake.
                weight.add_(torch.randn_like(weight) * 0.2)
    path = tmp_path_factory.mktemp("model")
    # In several files, so that the index is read too.
    model.save_pretrained(path, max_shard_size="120KB")
    assert (path / "model.safetensors.index.json").exists()
    text = torch.randint(VOCAB, (COMMON_TEXT,)).tolist()
    prompts = [
        (text[: case.prompt] + torch.randint(VOCAB, (case.prompt,)).tolist())[: case.prompt]
        for case in CASES
    ]
    answers, logprobs, hidden = [], [], []
    for prompt, case in zip(prompts, CASES, strict=True):
        ids = torch.tensor([prompt])
        # With the mask given, no token of the prompt is taken for padding.
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=case.answer,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(out.logits).topk(2, dim=-1).values
        decided = [bool(first - second >= TIE) for first, second in best] + [False]
        answers.append(out.sequences[0, len(prompt) :][: decided.index(False)].tolist())
        with torch.no_grad():
            states = model.model(ids).last_hidden_state[0]
            logprobs.append(model.lm_head(states).log_softmax(dim=-1))
        hidden.append(states)
    assert sum(map(len, answers)) > 0.9 * sum(case.answer for case in CASES)
    return Oracle(path, prompts, answers, logprobs, hidden)


def engine(path: Path, way: Way) -> EngineCore:
    blocks = MAX_LEN // BLOCK + 3 if way.tight else 200
    config = EngineConfig(
        model=str(path),
        execution=EXECUTION,
        max_num_seqs=min(way.budget, 8),
        max_num_batched_tokens=way.budget,
        max_num_queued_reqs=100,
        block_size=BLOCK,
        enable_prefix_caching=way.caching,
        kv_cache_memory_bytes=blocks * block_bytes(read_spec(path), BLOCK, itemsize=4),
    )
    return build_engine(config)[0]


@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: "-".join(str(value) for value in astuple(way))
)
def test_greedy_equals_transformers(oracle: Oracle, way: Way) -> None:
    core = engine(oracle.path, way)
    answers: dict[tuple[int, int], list[int]] = {}
    step = 0
    while step <= max(case.join for case in CASES) or core.has_work:
        for i, case in enumerate(CASES):
            names = [f"{i} {copy}" for copy in range(case.n if way.several else 1)]
            if step == (case.join if way.traffic else 0):
                for name in names:
                    params = SamplingParams(max_tokens=case.answer, temperature=0.0)
                    core.add(Request(name, oracle.prompts[i], params))
            if way.traffic and step == case.leave:
                core.abort(names)
        for delta in core.step()[0]:
            i, copy = map(int, delta.id.split())
            answers.setdefault((i, copy), []).extend(delta.token_ids)
        step += 1
    for (i, _), answer in answers.items():
        case, expected = CASES[i], oracle.answers[i]
        if way.traffic and case.leave is not None:
            assert len(answer) < case.answer
        else:
            assert len(answer) == case.answer
        length = min(len(answer), len(expected))
        assert answer[:length] == expected[:length], f"request {i}"
    # Who leaves may do so before the first token.
    served = {i for i, _ in answers}
    assert served | {i for i, case in enumerate(CASES) if case.leave} == set(range(len(CASES)))
    stats = core.stats()
    assert stats.free_blocks == stats.total_blocks
    assert (stats.preemptions_total > 0) == way.tight
    assert (stats.prefix_cache_hits_total > 0) == way.caching


def test_a_seeded_answer_is_the_same_every_way(oracle: Oracle) -> None:
    params = SamplingParams(
        max_tokens=20, temperature=0.7, top_p=0.9, frequency_penalty=0.2, seed=11
    )
    answers = []
    for way in (WAYS[0], WAYS[1], WAYS[4]):
        core = engine(oracle.path, way)
        for i, prompt in enumerate(oracle.prompts):
            core.add(Request(str(i), prompt, params))
        answer: dict[str, list[int]] = {}
        while core.has_work:
            for delta in core.step()[0]:
                answer.setdefault(delta.id, []).extend(delta.token_ids)
        assert (core.stats().preemptions_total > 0) == way.tight
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2]


def test_logprobs_equal_transformers(oracle: Oracle) -> None:
    core = engine(oracle.path, WAYS[0])
    for i, prompt in enumerate(oracle.prompts):
        core.add(Request(str(i), prompt, SamplingParams(max_tokens=1, temperature=0.0, logprobs=5)))
    while core.has_work:
        for delta in core.step()[0]:
            expected = oracle.logprobs[int(delta.id)][-1]
            (sampled,) = delta.logprobs
            assert sampled.token == expected.argmax()
            check_logprobs(sampled, expected)


def check_logprobs(sampled: Sampled, expected: torch.Tensor) -> None:
    assert sampled.logprob == pytest.approx(float(expected[sampled.token]), abs=1e-4)
    assert len(sampled.top_logprobs) == 5
    best = expected.topk(5).values.tolist()
    for (token, logprob), value in zip(sampled.top_logprobs, best, strict=True):
        assert logprob == pytest.approx(value, abs=1e-4)
        assert logprob == pytest.approx(float(expected[token]), abs=1e-4)


READERS: dict[str, Callable[[int], SamplingParams | PoolingParams]] = {
    "answer": lambda _: SamplingParams(max_tokens=40, temperature=0.0),
    "score": lambda i: SamplingParams(max_tokens=i % 3, temperature=0.0, prompt_logprobs=5),
    "last": lambda _: PoolingParams("last"),
    "mean": lambda _: PoolingParams("mean"),
    "cls": lambda _: PoolingParams("cls"),
}


@pytest.mark.parametrize("way", [way for way in WAYS if way.budget < 256], ids=str)
def test_what_is_read_of_prompts_equals_transformers(oracle: Oracle, way: Way) -> None:
    core = engine(oracle.path, way)
    for kind, params in READERS.items():
        for i, prompt in enumerate(oracle.prompts):
            core.add(Request(f"{kind} {i}", prompt, params(i)))
    first: dict[str, Delta] = {}
    while core.has_work:
        for delta in core.step()[0]:
            first.setdefault(delta.id, delta)
    assert len(first) == len(READERS) * len(oracle.prompts)
    assert (core.stats().preemptions_total > 0) == way.tight
    assert (core.stats().prefix_cache_hits_total > 0) == way.caching
    for i, prompt in enumerate(oracle.prompts):
        scores = first[f"score {i}"].prompt_logprobs
        assert scores[0] is None
        assert [score.token for score in scores if score] == prompt[1:]
        for score, expected in zip(scores[1:], oracle.logprobs[i][:-1], strict=True):
            assert score is not None
            check_logprobs(score, expected)
        states = oracle.hidden[i]
        for kind, state in {"last": states[-1], "mean": states.mean(0), "cls": states[0]}.items():
            delta = first[f"{kind} {i}"]
            assert (delta.token_ids, delta.finish_reason) == ([], FinishReason.STOP)
            assert delta.embedding == pytest.approx(state.tolist(), abs=1e-4)


def test_an_answer_cannot_stop_before_min_tokens(oracle: Oracle) -> None:
    """Each model would say its stop token at once."""
    core = engine(oracle.path, WAYS[0])
    stops = {str(i): answer[0] for i, answer in enumerate(oracle.answers)}
    for i, prompt in enumerate(oracle.prompts):
        stop = (stops[str(i)],)
        params = SamplingParams(max_tokens=6, min_tokens=4, temperature=0.0, stop_token_ids=stop)
        core.add(Request(str(i), prompt, params))
        core.add(Request(f"{i} at once", prompt, replace(params, min_tokens=0)))
    answers: dict[str, list[int]] = {}
    while core.has_work:
        for delta in core.step()[0]:
            answers.setdefault(delta.id, []).extend(delta.token_ids)
    for i, stop in stops.items():
        assert answers[f"{i} at once"] == [stop]
        assert len(answers[i]) > 4
        assert stop not in answers[i][:4]


def test_bfloat16_chooses_among_the_best(oracle: Oracle) -> None:
    core = build_engine(EngineConfig(str(oracle.path), dtype="bfloat16", block_size=BLOCK))[0]
    for i, prompt in enumerate(oracle.prompts):
        core.add(Request(str(i), prompt, SamplingParams(max_tokens=1, temperature=0.0)))
    chosen = {}
    while core.has_work:
        chosen |= {int(delta.id): delta.token_ids[0] for delta in core.step()[0] if delta.token_ids}
    for i, logprobs in enumerate(oracle.logprobs):
        assert logprobs[-1].max() - logprobs[-1, chosen[i]] < 0.25 * logprobs[-1].std()
