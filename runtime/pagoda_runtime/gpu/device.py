"""The device that a rank computes on, or why there is none."""

from __future__ import annotations

import os

import torch
import triton

from pagoda_runtime.config import ConfigError
from pagoda_runtime.engine.step import ExecutionUnavailableError


def find(rank: int, ranks: int) -> torch.device:
    """The rank's GPU, made the current one; the CPU where kernels are interpreted.

    Raises:
        ConfigError: there are fewer GPUs than ranks.
        ExecutionUnavailableError: torch or Triton cannot use one, for the reason that they give.
    """
    if not torch.cuda.is_available():
        if os.environ.get("TRITON_INTERPRET") == "1":
            return torch.device("cpu")
        raise ExecutionUnavailableError(f"torch finds no usable GPU: {_why_not()}")
    if (count := torch.cuda.device_count()) < ranks:
        raise ConfigError(
            f"--tensor-parallel-size {ranks} needs as many GPUs, and there is {count}"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    start_triton()
    return device


def start_triton() -> None:
    """Have Triton compile what it talks to the driver through, unless its cache has it. In an image
    without a compiler it fails here, where it can be told, and not at the first kernel.
    """
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever a compiler, a linker or a file system can say
        raise ExecutionUnavailableError(
            "Triton does not start, which needs gcc, Python's headers, libcuda.so.1 and a writable "
            f"TRITON_CACHE_DIR: {_first_sentence(error)}"
        ) from error


def _why_not() -> str:
    """What torch says when it is told to use a GPU all the same: no driver, or one that is too old."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return _first_sentence(error)
    return "there is none"


def _first_sentence(error: Exception) -> str:
    """The rest is advice for a desktop machine."""
    text = str(error) or type(error).__name__
    return text.split(". ")[0].splitlines()[0]
