"""What the machine can do at this moment: a process of its own prints it as JSON.

Read bandwidth and speed of matrix products bound what any engine can reach here, and they move: the
machine is shared.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

BYTES = 512 << 20  # far more than the caches hold
GEMM = (256, 1536, 1536)  # rows, columns, depth: a prefill chunk and weights of a usual size
SECONDS = 0.7


@dataclass(frozen=True)
class Machine:
    """Of all threads together."""

    read: float  # bytes per second
    flops: float  # of the faster of bfloat16 and float32, per second


def probe() -> Machine:
    """Measure now."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.runtime.probe"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Machine(**json.loads(done.stdout))


def _main() -> None:
    import torch  # not in the bench's own process, which has to be light

    data = torch.ones(BYTES // 4)
    read = BYTES / _median_seconds(lambda: data.sum())
    rows, columns, depth = GEMM
    rates = []
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.rand(rows, depth).to(dtype), torch.rand(depth, columns).to(dtype)
        seconds = _median_seconds(partial(torch.matmul, a, b))
        rates.append(2 * rows * columns * depth / seconds)
    print(json.dumps({"read": read, "flops": max(rates)}))


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    _main()
