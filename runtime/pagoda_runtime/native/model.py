"""From a model's shape and weights to a model in the library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda_runtime.model.frequencies import inverse_frequencies
from pagoda_runtime.model.spec import DecoderSpec
from pagoda_runtime.native.library import Config, InstructionSet, Model, Tensor

_MODEL_TENSORS = {
    "model.embed_tokens.weight": Tensor.EMBEDDING,
    "lm_head.weight": Tensor.LM_HEAD,
    "model.norm.weight": Tensor.FINAL_NORM,
}
_LAYER_TENSORS = {
    "input_layernorm.weight": Tensor.INPUT_NORM,
    "post_attention_layernorm.weight": Tensor.POST_NORM,
    "self_attn.q_norm.weight": Tensor.Q_NORM,
    "self_attn.k_norm.weight": Tensor.K_NORM,
    "self_attn.q_proj.weight": Tensor.Q_WEIGHT,
    "self_attn.k_proj.weight": Tensor.K_WEIGHT,
    "self_attn.v_proj.weight": Tensor.V_WEIGHT,
    "self_attn.o_proj.weight": Tensor.O_WEIGHT,
    "mlp.gate_proj.weight": Tensor.GATE_WEIGHT,
    "mlp.up_proj.weight": Tensor.UP_WEIGHT,
    "mlp.down_proj.weight": Tensor.DOWN_WEIGHT,
    "self_attn.q_proj.bias": Tensor.Q_BIAS,
    "self_attn.k_proj.bias": Tensor.K_BIAS,
    "self_attn.v_proj.bias": Tensor.V_BIAS,
    "self_attn.o_proj.bias": Tensor.O_BIAS,
    "mlp.gate_proj.bias": Tensor.GATE_BIAS,
    "mlp.up_proj.bias": Tensor.UP_BIAS,
    "mlp.down_proj.bias": Tensor.DOWN_BIAS,
}


def create_model(
    library: ctypes.CDLL,
    spec: DecoderSpec,
    *,
    block_size: int,
    num_blocks: int,
    max_tokens: int,
    logits_rows: int,
    threads: int,
    int8: bool = False,
    instruction_set: InstructionSet = InstructionSet.NONE,
) -> Model:
    """A model without weights; NativeError if it cannot be. A step has at most max_tokens, and holds
    at most logits_rows of logits at once.
    """
    config = Config(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        qk_norm=spec.qk_norm,
        qkv_bias=spec.qkv_bias,
        o_bias=spec.o_bias,
        mlp_bias=spec.mlp_bias,
        tie_embeddings=spec.tie_embeddings,
        int8=int8,
        block_size=block_size,
        num_blocks=num_blocks,
        max_tokens=max_tokens,
        logits_rows=logits_rows,
        threads=threads,
        instruction_set=instruction_set,
        norm_eps=spec.norm_eps,
    )
    windows = np.array([window or 0 for window in spec.windows], np.int32)
    return Model(library, config, inverse_frequencies(spec.rope, spec.head_dim), windows)


def load_weights(model: Model, tensors: Iterable[tuple[str, npt.NDArray[Any]]]) -> None:
    """Hand over tensors by their names in the checkpoint; each may go when the next one comes."""
    for name, data in tensors:
        if name in _MODEL_TENSORS:
            model.load(_MODEL_TENSORS[name], 0, data)
        else:
            layer, _, part = name.removeprefix("model.layers.").partition(".")
            model.load(_LAYER_TENSORS[part], int(layer), data)
