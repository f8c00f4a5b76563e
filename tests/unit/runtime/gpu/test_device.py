"""Why a GPU cannot be used is said as torch and Triton say it."""

import pytest
import torch
from pagoda_runtime.config import ConfigError
from pagoda_runtime.engine.step import ExecutionUnavailableError
from pagoda_runtime.gpu import device

from tests.unit.runtime.gpu.device import DEVICE

without_gpu = pytest.mark.skipif(DEVICE.type == "cuda", reason="here one can be used")
with_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")


@without_gpu
def test_torch_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ExecutionUnavailableError) as refused:
        device.find(0, 1)
    with pytest.raises((AssertionError, RuntimeError)) as said:
        torch.cuda.init()
    reason = str(refused.value).removeprefix("torch finds no usable GPU: ")
    assert len(reason) > 10
    assert str(said.value).startswith(reason)


@without_gpu
def test_triton_says_why_it_does_not_start() -> None:
    with pytest.raises(ExecutionUnavailableError, match=r"Triton does not start.*0 active drivers"):
        device.start_triton()


@without_gpu
def test_interpreted_kernels_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert device.find(1, 2) == torch.device("cpu")


@with_gpu
def test_each_rank_has_a_gpu() -> None:
    assert device.find(0, 1) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="needs as many GPUs"):
        device.find(0, torch.cuda.device_count() + 1)
