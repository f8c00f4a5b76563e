"""The decoder in plain torch: the reference the faster executions are compared with.

All tokens of a step, of all requests, lie one after another in one dimension ("tokens"); only
attention knows which request a token belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pagoda_runtime.model.group import Group
from pagoda_runtime.model.rope import apply_rope, rope_table
from pagoda_runtime.model.spec import DecoderSpec


class Attend(Protocol):
    """Attention of one layer over whatever each token may see."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] → like q."""


class Product(Protocol):
    """A product with a layer's weights, whatever they are stored in."""

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""


@dataclass(frozen=True)
class Linear:
    """y = x · weightᵀ + bias; weight [out, in]."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class RowParallel:
    """A product of which each rank has some columns of the weight, and those of x; the results are added
    up.
    """

    product: Product
    group: Group

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] → [rows, out], the same on all ranks."""
        return self.group.all_reduce(self.product(x))


@dataclass(frozen=True)
class Layer:
    """Weights of one block. Projections that read the same input are merged: fewer, larger
    products.
    """

    input_norm: Tensor
    qkv: Product
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Product
    post_norm: Tensor
    gate_up: Product
    down: Product


class Decoder:
    """Token ids and positions in, hidden states and logits out."""

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        max_len: int,
        group: Group | None = None,
    ) -> None:
        """Build from tensors named as in `spec.tensor_shapes()`; positions must stay below max_len.
        In a group, spec and tensors are those of this rank's `Shard`.
        """
        self.spec = spec
        self.group = group or Group()
        self.embedding = tensors["model.embed_tokens.weight"]
        self.layers = [
            _layer(spec, tensors, f"model.layers.{i}", self.group) for i in range(spec.num_layers)
        ]
        self.norm = tensors["model.norm.weight"]
        self.lm_head = self.embedding if spec.tie_embeddings else tensors["lm_head.weight"]
        self.cos, self.sin = rope_table(spec.rope, spec.head_dim, max_len, self.embedding.dtype)

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """token_ids, positions [tokens] int64 → hidden states [tokens, hidden] after the last
        norm.
        """
        x = F.embedding(token_ids, self.embedding)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        for index, layer in enumerate(self.layers):
            x = x + self._attention(index, layer, self._norm(x, layer.input_norm), cos, sin, attend)
            gate, up = layer.gate_up(self._norm(x, layer.post_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return self._norm(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] → [rows, vocab] in float32."""
        return F.linear(hidden, self.lm_head).float()

    def _attention(
        self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        spec = self.spec
        parts = torch.split(layer.qkv(x), [spec.q_size, spec.kv_size, spec.kv_size], dim=-1)
        q, k, v = (part.view(len(x), -1, spec.head_dim) for part in parts)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = attend(index, apply_rope(q, cos, sin), apply_rope(k, cos, sin), v)
        return layer.o(out.flatten(1))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.spec.norm_eps)


def _layer(spec: DecoderSpec, tensors: Mapping[str, Tensor], prefix: str, group: Group) -> Layer:
    def linear(*names: str) -> Linear:
        biases = [tensors[f"{prefix}.{n}.bias"] for n in names if f"{prefix}.{n}.bias" in tensors]
        weights = [tensors[f"{prefix}.{n}.weight"] for n in names]
        return Linear(_merge(weights), _merge(biases) if biases else None)

    def row_parallel(name: str) -> Product:
        return RowParallel(linear(name), group) if group.size > 1 else linear(name)

    return Layer(
        input_norm=tensors[f"{prefix}.input_layernorm.weight"],
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        q_norm=tensors[f"{prefix}.self_attn.q_norm.weight"] if spec.qk_norm else None,
        k_norm=tensors[f"{prefix}.self_attn.k_norm.weight"] if spec.qk_norm else None,
        o=row_parallel("self_attn.o_proj"),
        post_norm=tensors[f"{prefix}.post_attention_layernorm.weight"],
        gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
        down=row_parallel("mlp.down_proj"),
    )


def _merge(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
