"""Single kernels beside the memory's and the product's rate."""

import torch
from pagoda_runtime.gpu.kernels.elementwise import add_norm, silu_and_mul
from pagoda_runtime.gpu.kernels.paged_attention import (
    DECODE_ROWS,
    PREFILL_ROWS,
    Scratch,
    Tiles,
    paged_attention,
    tokens_per_tile,
)
from pagoda_runtime.gpu.kernels.sampling import Parameters, sample
from pagoda_runtime.model.spec import DecoderSpec

from tests.bench.gpu.machine import Machine, seconds

BLOCK = 32


def table(machine: Machine, spec: DecoderSpec) -> str:
    """A row for each kernel and size."""
    lines = ["| kernel | µs | share of the limit |", "|---|---|---|"]
    for sequences, context in [(1, 4096), (8, 1024), (64, 1024), (256, 1024)]:
        for splits in (1, 4, 16):
            taken = _decode(spec, sequences, context, splits)
            moved = sequences * context * 2 * spec.kv_size * 2
            share = moved / taken / machine.read
            name = f"attention, {sequences} decodes of {context:,}, {splits} splits"
            lines.append(f"| {name} | {taken * 1e6:.1f} | {share:.0%} of copies |")
    for length in (512, 4096):
        taken = _prefill(spec, length)
        flops = 2 * length * length * spec.q_size  # half of the square, two products
        share = flops / taken / machine.flops
        lines.append(
            f"| attention, prefill of {length:,} | {taken * 1e6:.0f} | {share:.0%} of products |"
        )
    for rows in (1, 256, 8192):
        taken, moved = _norm(spec, rows)
        share = moved / taken / machine.read
        lines.append(f"| add and norm, {rows:,} rows | {taken * 1e6:.1f} | {share:.0%} of copies |")
        taken, moved = _swiglu(spec, rows)
        share = moved / taken / machine.read
        lines.append(f"| SwiGLU, {rows:,} rows | {taken * 1e6:.1f} | {share:.0%} of copies |")
    for rows in (1, 256):
        for name, top_p in [("greedy", None), ("temperature", 1.0), ("top_p 0.95", 0.95)]:
            taken = _sample(spec, rows, top_p)
            share = rows * spec.vocab_size * 4 / taken / machine.read
            lines.append(
                f"| sampling, {name}, {rows} rows | {taken * 1e6:.0f} | {share:.0%} of copies |"
            )
    return "\n".join(lines) + "\n"


def _cache(spec: DecoderSpec, blocks: int) -> torch.Tensor:
    shape = (2, blocks, BLOCK, spec.num_kv_heads, spec.head_dim)
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _int32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.int32).to("cuda")


def _decode(spec: DecoderSpec, sequences: int, context: int, splits: int) -> float:
    per_sequence = -(-context // BLOCK)
    keys, values = _cache(spec, sequences * per_sequence)
    q = torch.randn(sequences, spec.num_heads, spec.head_dim, device="cuda", dtype=torch.bfloat16)
    numbers = _int32(torch.arange(sequences))
    blocks = _int32(torch.randperm(sequences * per_sequence)).view(sequences, per_sequence)
    ones = torch.ones_like(numbers)
    tiles = Tiles(numbers, numbers * 0, numbers, ones, ones * context, blocks)
    out = torch.empty_like(q)
    scratch = Scratch.allocate(sequences * spec.num_heads * splits, spec.head_dim, q.device)

    def run() -> None:
        paged_attention(
            q, keys, values, tiles, DECODE_ROWS, out, scale=0.1, splits=splits, scratch=scratch
        )

    return seconds(run, 20)


def _prefill(spec: DecoderSpec, length: int) -> float:
    count = -(-length // BLOCK)
    keys, values = _cache(spec, count)
    q = torch.randn(length, spec.num_heads, spec.head_dim, device="cuda", dtype=torch.bfloat16)
    firsts = torch.arange(
        0, length, tokens_per_tile(PREFILL_ROWS, spec.num_heads, spec.num_kv_heads)
    )
    first = _int32(firsts)
    zero = _int32(torch.zeros(1))
    whole = zero + length
    blocks = _int32(torch.randperm(count))[None]
    tiles = Tiles(torch.zeros_like(first), first, zero, whole, whole, blocks)
    out = torch.empty_like(q)
    return seconds(lambda: paged_attention(q, keys, values, tiles, PREFILL_ROWS, out, scale=0.1))


def _norm(spec: DecoderSpec, rows: int) -> tuple[float, int]:
    """Seconds, and bytes moved."""
    x, residual = torch.randn(2, rows, spec.hidden_size, device="cuda").to(torch.bfloat16)
    weight = torch.ones_like(x[0])
    return seconds(lambda: add_norm(residual, x, weight, 1e-6), 50), 4 * x.numel() * 2


def _swiglu(spec: DecoderSpec, rows: int) -> tuple[float, int]:
    """The same."""
    halves = torch.randn(rows, 2 * spec.intermediate_size, device="cuda").to(torch.bfloat16)
    return seconds(lambda: silu_and_mul(halves), 50), 3 * halves.numel()


def _sample(spec: DecoderSpec, rows: int, top_p: float | None) -> float:
    logits = torch.randn(rows, spec.vocab_size, device="cuda") * 2
    full = torch.ones(rows, device="cuda")
    numbers = torch.arange(rows, device="cuda")
    parameters = Parameters(
        temperature=full * (0.0 if top_p is None else 1.0),
        top_p=full * (top_p or 1.0),
        min_p=full * 0.0,
        top_k=torch.zeros(rows, dtype=torch.int32, device="cuda"),
        seed=numbers,
        position=numbers,
    )
    tokens = torch.empty(rows, dtype=torch.int32, device="cuda")
    return seconds(lambda: sample(logits, parameters, tokens), 20)
