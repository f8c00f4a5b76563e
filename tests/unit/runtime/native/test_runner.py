"""The native execution in the engine: from a model directory to tokens."""

import ctypes
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.step import Chunk, Sampled
from pagoda_runtime.model.spec import read_spec
from pagoda_runtime.native import library as native_library
from pagoda_runtime.native import runner, weights
from safetensors.torch import save_file

from tests.unit.runtime.native.sequences import (
    COMMON,
    CONFIGS,
    VOCAB,
    make_spec,
    make_weights,
    random_tokens,
)

NAME = "llama-biases-tied-llama3-rope"
BLOCK, MAX_LEN = 8, 96


@pytest.fixture
def model_dir(library: ctypes.CDLL, tmp_path: Path) -> Path:
    config = COMMON | CONFIGS[NAME] | {"max_position_embeddings": MAX_LEN, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(make_weights(make_spec(NAME)), tmp_path / "model.safetensors")
    return tmp_path


def config_of(model_dir: Path, blocks: int = 200, **changes: Any) -> EngineConfig:
    base = EngineConfig(str(model_dir), block_size=BLOCK, execution="native")
    block_bytes = 2 * COMMON["num_hidden_layers"] * 4 * 10 * BLOCK * 2
    return replace(base, kv_cache_memory_bytes=blocks * block_bytes, **changes)


CASES = [  # prompt, answer, sampling
    (1, 30, {"temperature": 0.0}),
    (33, 40, {"temperature": 0.9, "seed": 5}),
    (17, 12, {"temperature": 1.2, "seed": -3, "top_p": 0.8, "top_k": 30}),
    (50, 40, {"temperature": 0.0, "repetition_penalty": 1.2, "presence_penalty": 0.5}),
    (24, 1, {"temperature": 0.0}),
    (40, 20, {"temperature": 0.7, "seed": 9, "logit_bias": ((7, 3.0),), "frequency_penalty": 1.0}),
]


def answers(config: EngineConfig) -> tuple[list[list[int]], int]:
    """The cases, joining one step after another; and how often one was preempted."""
    core, _, _ = build_engine(config)
    result: list[list[int]] = [[] for _ in CASES]
    step = 0
    while step < len(CASES) or core.has_work:
        if step < len(CASES):
            prompt, answer, params = CASES[step]
            core.add(
                Request(
                    str(step),
                    random_tokens(prompt, seed=step),
                    SamplingParams(max_tokens=answer, **params),
                )
            )
        for delta in core.step()[0]:
            result[int(delta.id)] += delta.token_ids
        step += 1
    return result, core.stats().preemptions_total


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_answers_do_not_depend_on_budget_or_preemption(model_dir: Path, quantization: Any) -> None:
    roomy, none = answers(config_of(model_dir, quantization=quantization))
    assert none == 0
    assert [len(answer) for answer in roomy] == [answer for _, answer, _ in CASES]
    small = config_of(
        model_dir, quantization=quantization, max_num_seqs=5, max_num_batched_tokens=7
    )
    assert answers(small)[0] == roomy
    tight = config_of(model_dir, blocks=MAX_LEN // BLOCK + 3, quantization=quantization)
    preempted, preemptions = answers(tight)
    assert preemptions > 0
    assert preempted == roomy


def test_sampling_parameters_reach_the_library(model_dir: Path) -> None:
    config = config_of(model_dir)
    spec = read_spec(model_dir)
    native, _ = runner.load(config, spec, LoadProgress(spec, "bfloat16", lambda *_: None))

    def chunk(**params: Any) -> Chunk:
        request = Request("r", [5, 6, 7], SamplingParams(max_tokens=9, **params))
        request.block_table = [3]
        request.token_ids += [8, 8]
        return Chunk(request, 0, 5)

    def sampled(**params: Any) -> Sampled:
        (output,) = native.run([chunk(**params)])
        assert output.sampled is not None
        return output.sampled

    def token(**params: Any) -> int:
        return sampled(**params).token

    best = token(temperature=0.0)
    assert token(temperature=0.0, logit_bias=((11, 99.0),)) == 11
    assert token(temperature=0.0, logit_bias=((best, -99.0),)) != best
    # A bias brings 5 (prompt) and 8 (answer) to the top; each penalty reaches what it is for.
    lifted = ((5, 50.0), (8, 70.0))
    assert token(temperature=0.0, logit_bias=lifted) == 8
    assert token(temperature=0.0, logit_bias=lifted, presence_penalty=40.0) == 5
    assert token(temperature=0.0, logit_bias=lifted, frequency_penalty=20.0) == 5
    assert token(temperature=0.0, logit_bias=(*lifted, (9, 50.0)), repetition_penalty=2.0) == 9
    assert token(temperature=0.0, stop_token_ids=(best,), min_tokens=2) == best  # There are two.
    assert token(temperature=0.0, stop_token_ids=(best,), min_tokens=3) != best
    unstoppable = {"logit_bias": ((11, 99.0),), "stop_token_ids": (best, 11), "min_tokens": 3}
    assert token(temperature=5.0, seed=1, top_k=1, **unstoppable) not in (best, 11)
    assert token(temperature=5.0, seed=1, top_k=1) == best
    assert token(temperature=5.0, seed=1, top_p=1e-9) == best
    assert token(temperature=5.0, seed=1, min_p=1.0) == best
    assert len({token(temperature=5.0, seed=seed) for seed in range(20)}) > 10
    assert token(temperature=5.0, seed=-1) == token(temperature=5.0, seed=2**64 - 1)

    plain = sampled(temperature=0.0)
    assert (plain.logprob, plain.top_logprobs) == (None, ())
    full = sampled(temperature=0.0, logprobs=VOCAB)
    assert full.top_logprobs[0] == (best, full.logprob)
    assert math.isclose(sum(math.exp(value) for _, value in full.top_logprobs), 1, abs_tol=1e-5)


def test_the_engine_starts_without_torch(model_dir: Path) -> None:
    program = (
        "import sys\n"
        "from pagoda_runtime.config import EngineConfig\n"
        "from pagoda_runtime.engine.build import build_engine\n"
        f"core = build_engine(EngineConfig({str(model_dir)!r}))[0]\n"
        "core.self_test()\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float32"}, "bfloat16"),
        ({"block_size": 5}, "even"),
    ],
)
def test_what_it_cannot_do_falls_back_to_torch(
    model_dir: Path, changes: dict[str, Any], reason: str
) -> None:
    config = config_of(model_dir, blocks=500, **changes)
    with pytest.raises(ConfigError, match=f"native: .*{reason}"):
        build_engine(config)
    build_engine(replace(config, execution="auto"))


def test_without_the_library_torch_is_used(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = functools.partial(native_library.load_library, tmp_path / "no.so")
    monkeypatch.setattr(runner, "load_library", missing)
    config = config_of(model_dir)
    with pytest.raises(ConfigError, match="no library"):
        build_engine(config)
    build_engine(replace(config, execution="auto"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_reads_what_safetensors_holds(model_dir: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    spec = read_spec(model_dir)
    saved = {name: tensor.to(dtype) for name, tensor in make_weights(spec).items()}
    save_file(saved, tmp_path / "model.safetensors")
    read = dict(weights.read_weights(tmp_path, spec, "auto", 0))
    assert set(read) == set(saved)
    for name, tensor in saved.items():
        if dtype == torch.bfloat16:
            assert np.array_equal(read[name], tensor.view(torch.uint16).numpy())
        else:
            assert np.array_equal(read[name], tensor.float().numpy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "no tensor model.norm.weight"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}),
            r"model.norm.weight has shape \[5\]",
        ),
        (
            lambda tensors: tensors.update(
                {"model.norm.weight": tensors["model.norm.weight"].double()}
            ),
            "type F64",
        ),
    ],
)
def test_bad_files_are_refused(
    model_dir: Path, damage: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    tensors = make_weights(make_spec(NAME))
    damage(tensors)
    save_file(tensors, model_dir / "model.safetensors")
    with pytest.raises(ConfigError, match=message):
        build_engine(config_of(model_dir))


def test_a_cut_file_is_refused(model_dir: Path) -> None:
    file = model_dir / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"model.safetensors is damaged"):
        build_engine(config_of(model_dir))


def test_dummy_weights_have_the_right_variance(model_dir: Path) -> None:
    spec = read_spec(model_dir)
    for name, data in weights.dummy_weights(spec, seed=3):
        assert data.shape == spec.tensor_shapes()[name]
        values = (data.astype(np.uint32) << 16).view(np.float32)
        if name.endswith("norm.weight"):
            assert (values == 1).all()
        elif not name.endswith("bias"):
            assert values.var() * data.shape[1] == pytest.approx(1, rel=0.1)
