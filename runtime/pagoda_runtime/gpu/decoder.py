"""The decoder by torch's products and our kernels: between two products there is one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pagoda_runtime.gpu.batch import Step
from pagoda_runtime.gpu.kernels.elementwise import add_norm, rms_norm, rope_and_store, silu_and_mul
from pagoda_runtime.gpu.kernels.paged_attention import (
    DECODE_ROWS,
    PREFILL_ROWS,
    Scratch,
    paged_attention,
)
from pagoda_runtime.model.decoder import Decoder, Layer

# More splits than this cost more in joining than they bring.
MOST_SPLITS = 16


@dataclass(frozen=True)
class KVCache:
    """Keys and values, each [layers, blocks, block_size, kv_heads, head_dim]."""

    keys: Tensor
    values: Tensor


class GpuDecoder:
    """Computes steps with the weights of a `Decoder`, which are on the device."""

    def __init__(self, decoder: Decoder, cache: KVCache, max_decodes: int, processors: int) -> None:
        """Prepare.

        Args:
            decoder: the weights and the table of angles.
            cache: where keys and values of all requests are.
            max_decodes: the most chunks of one token in a step.
            processors: how many programs run at the same time, at least.
        """
        self.cache = cache
        self._weights = decoder
        self._processors = processors
        spec = decoder.spec
        self._scale = 1.0 / math.sqrt(spec.head_dim)
        # One for steps of all sizes, so that captured graphs share it.
        cells = max(n * self.splits(n) for n in range(1, max_decodes + 1)) * spec.num_heads
        self._scratch = Scratch.allocate(cells, spec.head_dim, cache.keys.device)

    def splits(self, decodes: int) -> int:
        """Into how many parts keys are split, so that there is work for all processors: a power of
        two, as each number is a kernel to compile.
        """
        programs = decodes * self._weights.spec.num_kv_heads
        wanted = min(MOST_SPLITS, max(1, 2 * self._processors // programs))
        return 1 << (wanted.bit_length() - 1)

    def forward(self, step: Step) -> Tensor:
        """Hidden states after the last norm, [rows, hidden]."""
        weights = self._weights
        eps = weights.spec.norm_eps
        residual = F.embedding(step.tokens, weights.embedding)
        x = rms_norm(residual, weights.layers[0].input_norm, eps)
        norms = [*(layer.input_norm for layer in weights.layers[1:]), weights.norm]
        for index, (layer, next_norm) in enumerate(zip(weights.layers, norms, strict=True)):
            out = layer.o(self._attention(index, layer, x, step))
            x = add_norm(residual, out, layer.post_norm, eps)
            out = layer.down(silu_and_mul(layer.gate_up(x)))
            x = add_norm(residual, out, next_norm, eps)
        return x

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._weights.spec.vocab_size

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] → [rows, vocab] in float32."""
        return self._weights.logits(hidden)

    def logits_into(self, out: Tensor, hidden: Tensor) -> None:
        """The same into out [rows, vocab] float32, in one pass: a copy widens as it goes."""
        out.copy_(F.linear(hidden, self._weights.lm_head))

    def _attention(self, index: int, layer: Layer, x: Tensor, step: Step) -> Tensor:
        """The layer's attention of x [rows, hidden], before its output product."""
        weights, spec = self._weights, self._weights.spec
        keys, values = self.cache.keys[index], self.cache.values[index]
        norms = (
            None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        )
        q = rope_and_store(
            layer.qkv(x),
            step.positions,
            step.slots,
            (weights.cos, weights.sin),
            keys,
            values,
            spec.num_heads,
            norms,
            spec.norm_eps,
        )
        out = torch.empty_like(q)
        window = spec.windows[index]
        if len(step.prefills.sequence):
            paged_attention(
                q,
                keys,
                values,
                step.prefills,
                PREFILL_ROWS,
                out,
                scale=self._scale,
                window=window,
            )
        if decodes := len(step.decodes.sequence):
            paged_attention(
                q[:decodes],
                keys,
                values,
                step.decodes,
                DECODE_ROWS,
                out[:decodes],
                scale=self._scale,
                window=window,
                splits=self.splits(decodes),
                scratch=self._scratch,
            )
        return out.flatten(1)
