"""Reading model directories: what works, and what is refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.loader import dummy_weights, read_weights
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype, parse_spec, read_spec
from safetensors.torch import save_file

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def spec(**changes: Any) -> DecoderSpec:
    return parse_spec(LLAMA | changes)


def load(path: Path, of: DecoderSpec) -> dict[str, torch.Tensor]:
    return dict(read_weights(path, Shard(of), torch.float32, "auto", 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM is not supported; supported are: LlamaForCausalLM, "
            "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
        ),
        ({"architectures": None}, "none given"),
        ({"hidden_act": "gelu"}, "activation gelu"),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "use_sliding_window": True,
                "layer_types": ["linear_attention"],
            },
            "layer_types of 1 layers",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "RoPE scaling yarn"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*config.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"})
    )
    with pytest.raises(ConfigError, match="no hidden_size"):
        read_spec(tmp_path)


def test_old_and_new_spelling_of_rope() -> None:
    old = spec(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    new = spec(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    assert old.rope == new.rope
    assert (old.rope.theta, old.rope.factor) == (5e5, 2.0)


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("Mistral", {}, (4096, 4096, 4096)),
        ("Mistral", {"sliding_window": 8}, (8, 8, 8)),
        ("Mistral", {"sliding_window": None}, (None, None, None)),
        ("Llama", {"sliding_window": 8, "use_sliding_window": True}, (None, None, None)),
        ("Qwen2", {"sliding_window": 8}, (None, None, None)),
        ("Qwen2", {"sliding_window": 8, "use_sliding_window": True}, (None, None, None)),
        (
            "Qwen2",
            {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
            (None, 8, 8),
        ),
        (
            "Qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            (None, 8, None),
        ),
    ],
)
def test_windows_are_those_of_transformers(
    architecture: str, changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    changes = {"architectures": [f"{architecture}ForCausalLM"], "num_hidden_layers": 3} | changes
    assert spec(**changes).windows == windows
    config = getattr(transformers, f"{architecture}Config")(**LLAMA | changes)
    window = getattr(config, "sliding_window", None)
    default = {"Mistral": "sliding_attention"}.get(architecture, "full_attention")
    kinds = getattr(config, "layer_types", None) or [default] * 3
    assert windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize(
    ("wanted", "checkpoint", "chosen"),
    [
        ("auto", "float32", "float32"),
        ("auto", "float16", "bfloat16"),
        ("float32", "bfloat16", "float32"),
    ],
)
def test_dtype(wanted: str, checkpoint: str, chosen: str) -> None:
    assert choose_dtype(wanted, spec(torch_dtype=checkpoint)) == chosen


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="float8_e4m3fn"):
        choose_dtype("auto", spec(dtype="float8_e4m3fn"))


def test_single_file_and_shards_load_the_same(tmp_path: Path) -> None:
    weights = dummy_weights(spec(), torch.float32, 0)
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    single.mkdir()
    sharded.mkdir()
    save_file(weights, single / "model.safetensors")
    where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(weights)}
    for part in set(where.values()):
        save_file({n: w for n, w in weights.items() if where[n] == part}, sharded / part)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for path in (single, sharded):
        loaded = load(path, spec())
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="pickled weights, which can run code"):
        load(tmp_path, spec())


def test_missing_tensor_and_wrong_shape_are_named(tmp_path: Path) -> None:
    weights = dummy_weights(spec(), torch.float32, 0)
    file = tmp_path / "model.safetensors"
    save_file({name: w for name, w in weights.items() if name != "lm_head.weight"}, file)
    with pytest.raises(ConfigError, match=r"no tensor lm_head.weight \(1 missing\)"):
        load(tmp_path, spec())
    save_file(weights, file)
    with pytest.raises(ConfigError, match=r"has shape \[16, 24\], config.json says \[16, 48\]"):
        load(tmp_path, spec(intermediate_size=48))
    file.unlink()
    with pytest.raises(ConfigError, match=r"holds no model.safetensors"):
        load(tmp_path, spec())


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "weights.bin"])
def test_the_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    where = dict.fromkeys(spec().tensor_shapes(), name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ConfigError, match="not a safetensors file beside it"):
        load(tmp_path, spec())


def test_dummy_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (dummy_weights(spec(), torch.float32, seed) for seed in (1, 1, 2))
    name = "lm_head.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
