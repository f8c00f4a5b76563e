"""Compiles every kernel as it is served, and looks at what it becomes: `python machine_code.py 90`.

A program and not a test: in pytest's process kernels may be interpreted. An AssertionError says what
is wrong.
"""

import re
import subprocess
import sys
import tempfile

import torch
import triton
from pagoda_runtime.gpu.kernels import elementwise, paged_attention, quantize, sampling
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

TARGET = GPUTarget("cuda", int(sys.argv[1]), 32)
BF16, FP32, I32, I64 = "*bf16", "*fp32", "*i32", "*i64"


def compiles(kernel, types, /, **constants):
    """Without spilled registers, on the smallest of these GPUs too; → PTX."""
    names = kernel.arg_names
    values = [name for name in names if name not in constants]
    signature = dict(zip(values, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    places = {(names.index(name),): value for name, value in constants.items()}
    # As at a launch: torch's tensors begin at multiples of 16 bytes.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, parameter) in enumerate(zip(names, kernel.params, strict=True))
        if signature[name].startswith("*") and not parameter.do_not_specialize_on_alignment
    }
    compiled = triton.compile(ASTSource(kernel, signature, places, aligned), target=TARGET)
    assert compiled.metadata.shared <= 99 << 10, (kernel, constants)
    assert spilled(compiled.asm["cubin"]) == 0, (kernel, constants)
    return compiled.asm["ptx"]


def spilled(cubin):
    """Bytes of a thread's registers that are kept in memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (stack,), (local,) = (re.findall(rf"{name}:(\d+)", said) for name in ("STACK", "LOCAL"))
    return int(stack) + int(local)


for heads, kv_heads, dim in [(16, 8, 128), (9, 3, 64)]:
    for rows, window, splits in [(16, 0, 8), (64, 4096, 1)]:
        ptx = compiles(
            paged_attention._attend,
            [
                BF16,
                FP32,
                FP32,
                BF16,
                BF16,
                BF16,
                I32,
                I32,
                I32,
                I32,
                I32,
                I32,
                "i32",
                "fp32",
                "fp32",
            ],
            NUM_HEADS=heads,
            NUM_KV_HEADS=kv_heads,
            HEAD_DIM=dim,
            WIDTH=dim,
            BLOCK_SIZE=32,
            WINDOW=window,
            SOFT_CAP=window > 0,
            TILE_ROWS=rows,
            SPLITS=splits,
            TILE_TOKENS=paged_attention.tokens_per_tile(rows, heads, kv_heads),
            BLOCK_KEYS=paged_attention.BLOCK_KEYS,
        )
        assert re.search(r"mma(\.sync|_async)", ptx), "the tensor cores are idle"
        # Keys and values of one step of the walk, 16 bytes at a time by each thread of 4 warps.
        ahead = re.findall(r"cp\.async\.cg\.shared\.global [^;]*, 0x10\b", ptx)
        least = 2 * paged_attention.BLOCK_KEYS * dim * 2 // (128 * 16)
        assert len(ahead) >= least, "keys and values are not fetched ahead"
        assert not re.search(r"ld\.global\S*\.[bu]16\b", ptx), "loaded number by number"
    compiles(
        elementwise._rope_and_store,
        [BF16, BF16, BF16, BF16, I32, I32, BF16, BF16, BF16, BF16, "fp32"],
        NUM_HEADS=heads,
        NUM_KV_HEADS=kv_heads,
        HEAD_DIM=dim,
        NORM=True,
        HEADS_WIDTH=triton.next_power_of_2(heads),
        HALF_WIDTH=dim // 2,
        WIDTH=triton.next_power_of_2(kv_heads * dim),
        KV_HEADS_WIDTH=triton.next_power_of_2(kv_heads),
    )
compiles(
    paged_attention._join, [BF16, FP32, FP32], HEAD_DIM=128, WIDTH=128, SPLITS=5, SPLITS_WIDTH=8
)
for size in (576, 4096):
    for add in (False, True):
        width = triton.next_power_of_2(size)
        compiles(
            elementwise._add_norm, [BF16, BF16, BF16, BF16, "fp32"], SIZE=size, WIDTH=width, ADD=add
        )
compiles(elementwise._silu_and_mul, [BF16, BF16], SIZE=3072, BLOCK=1024)
compiles(quantize.quantize_kernel, ["*fp8e4nv", FP32, BF16, "fp32"], SIZE=12288, WIDTH=16384)
sample = sampling._sample
compiles(
    sample, [I32, FP32, "i32", FP32, FP32, FP32, I32, I64, I64], VOCAB=151936, BLOCK=sampling.BLOCK
)

# A row in the middle, sampled on its own, runs the same kernel as one at the beginning.
bind = create_function_from_signature(sample.signature, sample.params, make_backend(TARGET))
logits, numbers = torch.zeros(1, 64), torch.zeros(8)
first, second = (
    bind(numbers[i:], logits, 64, *[numbers[i:]] * 6, VOCAB=64, BLOCK=64)[1] for i in (0, 1)
)
assert first == second, (first, second)
