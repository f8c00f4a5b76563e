"""Greedy answers equal transformers' token for token, however requests share steps, blocks and
budgets.

Weights are random and large, so that the best token leads by far more than rounding can move.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.request import Request, SamplingParams
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
        MistralConfig(**COMMON, num_hidden_layers=2, head_dim=32, sliding_window=19)
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


@dataclass(frozen=True)
class Case:
    """One request: when it joins (step), how long it is, and when it is taken away, if it is."""

    join: int
    prompt: int
    answer: int
    leave: int | None = None


CASES = [
    Case(0, 1, 30),
    Case(0, 33, 40),
    Case(2, 17, 12),
    Case(5, 50, 46),
    Case(5, 8, 25, leave=14),
    Case(9, 24, 1),
    Case(15, 40, 20),
]


@dataclass(frozen=True)
class Oracle:
    path: Path
    prompts: list[list[int]]
    answers: list[list[int]]
    first_logits: list[torch.Tensor]


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
    prompts = [torch.randint(VOCAB, (case.prompt,)).tolist() for case in CASES]
    answers, first_logits = [], []
    for prompt, case in zip(prompts, CASES, strict=True):
        ids = torch.tensor([prompt])
        # With the mask given, no token of the prompt is taken for padding.
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=case.answer
        )
        answers.append(out[0, len(prompt) :].tolist())
        with torch.no_grad():
            first_logits.append(model(ids).logits[0, -1])
    return Oracle(path, prompts, answers, first_logits)


def engine(path: Path, *, budget: int, seqs: int, blocks: int) -> EngineCore:
    block_bytes = build_engine(EngineConfig(str(path), block_size=BLOCK))[1].block_bytes
    config = EngineConfig(
        model=str(path),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        block_size=BLOCK,
        kv_cache_memory_bytes=blocks * block_bytes,
    )
    return build_engine(config)[0]


@pytest.mark.parametrize(
    ("budget", "seqs", "blocks", "preempts"),
    [
        pytest.param(256, 8, 100, False, id="roomy"),
        pytest.param(7, 4, 100, False, id="small-chunks"),
        pytest.param(32, 8, MAX_LEN // BLOCK + 3, True, id="preempting"),
    ],
)
def test_greedy_equals_transformers(
    oracle: Oracle, budget: int, seqs: int, blocks: int, preempts: bool
) -> None:
    core = engine(oracle.path, budget=budget, seqs=seqs, blocks=blocks)
    answers: list[list[int]] = [[] for _ in CASES]
    step = 0
    while step <= max(case.join for case in CASES) or core.has_work:
        for i, case in enumerate(CASES):
            if case.join == step:
                params = SamplingParams(max_tokens=case.answer, temperature=0.0)
                core.add(Request(str(i), oracle.prompts[i], params))
            if case.leave == step:
                core.abort([str(i)])
        for delta in core.step()[0] if core.has_work else []:
            answers[int(delta.id)] += delta.token_ids
        step += 1
    for i, case in enumerate(CASES):
        if case.leave is None:
            assert answers[i] == oracle.answers[i], f"request {i}"
        else:
            assert answers[i] == oracle.answers[i][: len(answers[i])]
            assert len(answers[i]) < case.answer
    stats = core.stats()
    assert stats.free_blocks == stats.total_blocks
    assert (stats.preemptions_total > 0) == preempts


def test_bfloat16_chooses_among_the_best(oracle: Oracle) -> None:
    core = build_engine(EngineConfig(str(oracle.path), dtype="bfloat16", block_size=BLOCK))[0]
    for i, prompt in enumerate(oracle.prompts):
        core.add(Request(str(i), prompt, SamplingParams(max_tokens=1, temperature=0.0)))
    chosen = {}
    while core.has_work:
        chosen |= {int(delta.id): delta.token_ids[0] for delta in core.step()[0]}
    for i, logits in enumerate(oracle.first_logits):
        assert logits.max() - logits[chosen[i]] < 0.25 * logits.std()
