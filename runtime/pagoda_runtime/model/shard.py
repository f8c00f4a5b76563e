"""Which part of a decoder a rank of a tensor-parallel group computes, derived from the `DecoderSpec`.

Megatron's division (Shoeybi et al. 2019, "Megatron-LM"): of attention each rank has some heads, of the
MLP some of its inner width. So q, k, v, gate and up are cut by rows (column parallel: no rank needs
another's outputs), o and down by columns (row parallel: their outputs are added up over all ranks, all
that is exchanged). Embedding, norms and the output head are whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pagoda_runtime.config import ConfigError
from pagoda_runtime.model.spec import DecoderSpec

# What these are added to is a sum over all ranks, so one of them adds it.
_ADDED_ONCE = ("self_attn.o_proj.bias", "mlp.down_proj.bias")


@dataclass(frozen=True)
class Shard:
    """One rank's part of `whole`; `spec` describes it as if it were a decoder of its own.

    With more ranks than KV heads, neighbouring ranks have a copy of the same one. ConfigError if the
    decoder cannot be divided by `size`.
    """

    whole: DecoderSpec
    rank: int = 0
    size: int = 1
    spec: DecoderSpec = field(init=False)

    def __post_init__(self) -> None:
        whole, size = self.whole, self.size
        _divide("attention heads", whole.num_heads, size)
        _divide("neurons in its MLP", whole.intermediate_size, size)
        if size % whole.num_kv_heads != 0:  # Otherwise the heads are copied.
            _divide("KV heads", whole.num_kv_heads, size)
        local = replace(
            whole,
            num_heads=whole.num_heads // size,
            num_kv_heads=max(1, whole.num_kv_heads // size),
            intermediate_size=whole.intermediate_size // size,
        )
        object.__setattr__(self, "spec", local)

    def holds(self, name: str) -> bool:
        """Whether the rank has any of this tensor."""
        return self.rank == 0 or not name.endswith(_ADDED_ONCE)

    def slices(self, name: str) -> tuple[slice, ...] | None:
        """The rank's part of a tensor of `whole.tensor_shapes()`; None if that is all of it."""
        whole, part = (spec.tensor_shapes()[name] for spec in (self.whole, self.spec))
        if whole == part:
            return None
        return tuple(self._slice(length, some) for length, some in zip(whole, part, strict=True))

    def _slice(self, whole: int, part: int) -> slice:
        # As many parts as ranks, or fewer: then neighbours share one.
        begin = self.rank * (whole // part) // self.size * part
        return slice(begin, begin + part)


def _divide(what: str, count: int, size: int) -> None:
    if count % size != 0:
        raise ConfigError(
            f"--tensor-parallel-size {size} does not divide the model's {count} {what}"
        )
