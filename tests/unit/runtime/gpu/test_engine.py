"""The engine on the GPU's execution answers as the reference does, for every kind of step."""

import json
from pathlib import Path
from typing import Any

import pytest
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.kv_size import block_bytes
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import PoolingParams, Request, SamplingParams
from pagoda_runtime.model.spec import read_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:overflow encountered in reduce:RuntimeWarning"),
]

BLOCK = 4
COMMON = {
    "vocab_size": 70,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "dtype": "float32",
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True},
    "qwen2-half-windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
}
TEXT = [7 * i % 70 for i in range(60)]


def engine(model: Path, execution: Any, blocks: int) -> EngineCore:
    config = EngineConfig(
        model=str(model),
        execution=execution,
        load_format="dummy",
        max_num_seqs=4,
        max_num_batched_tokens=13,
        block_size=BLOCK,
        max_model_len=26,
        kv_cache_memory_bytes=blocks * block_bytes(read_spec(model), BLOCK, itemsize=4),
        seed=3,
    )
    return build_engine(config)[0]


def requests() -> list[Request]:
    """Greedy and sampled ones, with all that changes logits or reads them, on prompts that share
    their beginning.
    """
    greedy = {"temperature": 0.0}
    params: list[tuple[int, SamplingParams | PoolingParams]] = [
        (14, SamplingParams(max_tokens=10, **greedy)),
        (5, SamplingParams(max_tokens=14, seed=1)),
        (11, SamplingParams(max_tokens=5, seed=2, temperature=0.7, top_k=9, top_p=0.9)),
        (14, SamplingParams(max_tokens=3, **greedy, logprobs=2, prompt_logprobs=2)),
        (6, SamplingParams(max_tokens=6, seed=4, repetition_penalty=1.3, presence_penalty=0.4)),
        (1, SamplingParams(max_tokens=4, **greedy, logit_bias=((5, 30.0),))),
        (13, PoolingParams("mean")),
    ]
    return [
        Request(str(i), [*TEXT[: n - n // 3], *range(n // 3)], p) for i, (n, p) in enumerate(params)
    ]


def answers(core: EngineCore) -> dict[str, list[Delta]]:
    for request in requests():
        core.add(request)
    found: dict[str, list[Delta]] = {}
    while core.has_work:
        for delta in core.step()[0]:
            found.setdefault(delta.id, []).append(delta)
    assert core.stats().free_blocks == core.stats().total_blocks
    return found


@pytest.mark.parametrize(("model", "blocks"), [("qwen3", 7), ("qwen2-half-windows", 40)])
def test_answers_as_the_reference(model: str, blocks: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(COMMON | MODELS[model]))
    expected = answers(engine(tmp_path, "torch", blocks))
    core = engine(tmp_path, "cuda", blocks)
    found = answers(core)
    assert (core.stats().preemptions_total > 0) == (blocks == 7)
    assert core.stats().prefix_cache_hits_total > 0
    assert found.keys() == expected.keys()
    for name, deltas in found.items():
        tokens = [[d.token_ids for d in each] for each in (deltas, expected[name])]
        assert tokens[0] == tokens[1], name
        for one, other in zip(deltas, expected[name], strict=True):
            assert one.finish_reason == other.finish_reason
            assert one.embedding == pytest.approx(other.embedding, abs=1e-4)
            scores = [d.logprobs + [s for s in d.prompt_logprobs if s] for d in (one, other)]
            for left, right in zip(*scores, strict=True):
                assert left.token == right.token
                assert left.logprob == pytest.approx(right.logprob, abs=1e-4)
