"""The fused C++ execution behind HTTP, in a process that never loads torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pagoda_runtime.native.library import NativeError, load_library

from tests.integration.runtime.conftest import Server

REST = "defghijklmnopqrstuvwxyz"


def built() -> bool:
    try:
        load_library()
    except NativeError:
        return False
    return True


@pytest.mark.skipif(not built(), reason="the library is not built: there is no C++ compiler here")
@pytest.mark.parametrize("flags", [(), ("--quantization", "int8")], ids=["bf16", "int8"])
def test_recites_without_torch(start: Callable[..., Server], flags: tuple[str, ...]) -> None:
    server = start("--dtype", "bfloat16", *flags).wait_ready()
    assert server.wait_log("execution chosen")["execution"] == "native"
    answer = server.complete("abc", max_tokens=40, temperature=0).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (REST, "stop")
    libraries = Path(f"/proc/{server.engine_pid}/maps").read_text()
    assert "libpagoda.so" in libraries
    assert "torch" not in libraries
