"""What each rank of a tensor-parallel group holds: together all of it, nothing twice without need."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.loader import dummy_weights, read_weights
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import DecoderSpec, parse_spec
from safetensors.torch import save_file

SPEC = parse_spec(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 10,
        "hidden_size": 12,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "max_position_embeddings": 64,
    }
)


@st.composite
def divisible(draw: st.DrawFn) -> tuple[DecoderSpec, int]:
    size = draw(st.integers(1, 6))
    copies = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    kv_heads = draw(st.integers(1, 3)) * size if copies == 1 else size // copies
    heads = kv_heads * copies * draw(st.integers(1, 3))
    spec = replace(
        SPEC,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=size * draw(st.integers(1, 4)),
        qkv_bias=draw(st.booleans()),
    )
    return spec, size


@given(divisible())
def test_the_parts_are_the_whole(of: tuple[DecoderSpec, int]) -> None:
    whole, size = of
    shards = [Shard(whole, rank, size) for rank in range(size)]
    for name, shape in whole.tensor_shapes().items():
        held = np.zeros(shape, dtype=int)
        for shard in shards:
            if shard.holds(name):
                part = shard.slices(name)
                held[... if part is None else part] += 1
                assert held[... if part is None else part].shape == shard.spec.tensor_shapes()[name]
        assert len(np.unique(held)) == 1, f"of {name} some is held more often"
        if "mlp" in name or ".q_proj" in name or ".o_proj" in name:
            assert held.max() == 1, (
                "what is divided is nowhere twice, and these biases are added once"
            )


@given(divisible())
def test_a_query_head_is_where_its_kv_head_is(of: tuple[DecoderSpec, int]) -> None:
    whole, size = of
    for rank in range(size):
        shard = Shard(whole, rank, size)
        begins = []
        for name in ("q_proj", "k_proj", "v_proj"):
            part = shard.slices(f"model.layers.0.self_attn.{name}.weight")
            begins.append(0 if part is None else part[0].start // whole.head_dim)
        for head in range(shard.spec.num_heads):
            kv_head = head // (shard.spec.num_heads // shard.spec.num_kv_heads)
            expected = (begins[0] + head) // (whole.num_heads // whole.num_kv_heads)
            assert expected == begins[1] + kv_head == begins[2] + kv_head


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 3, "does not divide the model's 8 attention heads"),
        ({"num_heads": 12}, 3, "does not divide the model's 2 KV heads"),
        ({"num_heads": 12, "num_kv_heads": 4}, 6, "does not divide the model's 4 KV heads"),
        ({"intermediate_size": 27}, 2, "does not divide the model's 27 neurons"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    changes: dict[str, int], size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--tensor-parallel-size {size} {message}"):
        Shard(replace(SPEC, **changes), 0, size)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_a_rank_reads_its_part_of_the_weights(load_format: str, size: int, tmp_path: Path) -> None:
    whole = dummy_weights(SPEC, torch.float32, seed=5)
    save_file(whole, tmp_path / "model.safetensors")
    for rank in range(size):
        shard = Shard(SPEC, rank, size)
        read = dict(read_weights(tmp_path, shard, torch.float32, load_format, seed=5))
        assert set(read) == {name for name in whole if shard.holds(name)}
        for name, tensor in read.items():
            part = shard.slices(name)
            assert torch.equal(tensor, whole[name] if part is None else whole[name][part]), name
            assert tensor.is_contiguous()
            if load_format == "dummy" or name.endswith(("o_proj.weight", "down_proj.weight")):
                assert tensor.untyped_storage().nbytes() == tensor.nbytes, "no more than the part"
