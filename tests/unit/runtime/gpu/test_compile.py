"""Every kernel compiles to machine code of a GPU, in the shapes that are served. No GPU is needed."""

import os
import subprocess
import sys

import pytest

# In a process of its own: in this one kernels may be interpreted.
SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pagoda_runtime.gpu.kernels import elementwise, paged_attention, quantize, sampling

X, F, I, L = "*bf16", "*fp32", "*i32", "*i64"


def compiles(kernel, types, /, **constants):
    names = kernel.arg_names
    values = [name for name in names if name not in constants]
    assert len(values) == len(types), (kernel, values)
    signature = dict(zip(values, types)) | {name: "constexpr" for name in constants}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places)
    compiled = triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, 32))
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 99 << 10, "more than the smallest of these GPUs has"


for heads, kv_heads, dim in [(16, 8, 128), (9, 3, 64)]:
    width = triton.next_power_of_2(kv_heads * dim)
    for rows, window, splits in [(16, 0, 8), (64, 4096, 1)]:
        compiles(
            paged_attention._attend,
            [X, F, F, X, X, X, I, I, I, I, I, I, "i32", "fp32", "fp32"],
            NUM_HEADS=heads, NUM_KV_HEADS=kv_heads, HEAD_DIM=dim, WIDTH=dim, BLOCK_SIZE=32,
            WINDOW=window, SOFT_CAP=window > 0, TILE_ROWS=rows, SPLITS=splits,
            TILE_TOKENS=paged_attention.tokens_per_tile(rows, heads, kv_heads),
            BLOCK_KEYS=paged_attention.BLOCK_KEYS,
        )
    compiles(
        elementwise._rope_and_store,
        [X, X, X, X, I, I, X, X, X, X, "fp32"],
        NUM_HEADS=heads, NUM_KV_HEADS=kv_heads, HEAD_DIM=dim, NORM=True,
        HEADS_WIDTH=triton.next_power_of_2(heads), HALF_WIDTH=dim // 2, WIDTH=width,
        KV_HEADS_WIDTH=triton.next_power_of_2(kv_heads),
    )
compiles(paged_attention._join, [X, F, F], HEAD_DIM=128, WIDTH=128, SPLITS=5, SPLITS_WIDTH=8)
for add in (False, True):
    compiles(elementwise._add_norm, [X, X, X, X, "fp32"], SIZE=576, WIDTH=1024, ADD=add)
compiles(elementwise._silu_and_mul, [X, X], SIZE=3072, BLOCK=1024)
compiles(quantize.quantize_kernel, ["*fp8e4nv", F, X, "fp32"], SIZE=3072, WIDTH=4096)
compiles(sampling._sample, [I, F, "i32", F, F, F, I, L, L], VOCAB=151936, BLOCK=sampling.BLOCK)
"""


@pytest.mark.parametrize("architecture", [90])
def test_kernels_compile(architecture: int, tmp_path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = tmp_path / "compile_kernels.py"
    script.write_text(SCRIPT.replace("ARCHITECTURE", str(architecture)))
    done = subprocess.run(
        [sys.executable, script],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
