"""Starting, draining and dying, as the kubelet and the endpoints see it."""

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.runtime.conftest import MemoryGroup, Server, alive, eventually

Start = Callable[..., Server]
ENDLESS = {"model": "abc", "prompt": "a", "max_tokens": 900, "ignore_eos": True, "stream": True}


def stream(server: Server, **changes: Any) -> Future[list[Any]]:
    """Begin a streamed completion; the future holds all its events, once the first one has
    arrived.
    """
    begun: Future[None] = Future()

    def read() -> list[Any]:
        events: list[Any] = []
        url = server.url + "/v1/completions"
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", url, json=ENDLESS | changes) as response,
        ):
            for line in response.iter_lines():
                if data := line.removeprefix("data: "):
                    events.append(data if data == "[DONE]" else json.loads(data))
                    if not begun.done():
                        begun.set_result(None)
        return events

    result = ThreadPoolExecutor(1).submit(read)
    eventually(lambda: begun.done() or result.done(), "first event")
    return result


def test_loading_then_a_graceful_end(start: Start, private_tmp: Path) -> None:
    server = start("--min-step-ms", "10", "--drain-delay", "4", "--shutdown-timeout", "300")

    # The port is open and the probes answer long before the engine has loaded.
    os.kill(server.engine_pid, signal.SIGSTOP)
    assert server.get("/livez").status_code == 200
    for path in ("/readyz", "/health"):
        unready = server.get(path)
        assert (unready.status_code, unready.json()["reason"]) == (503, "loading")
        assert unready.json().keys() >= {"phase", "elapsed_seconds"}
    assert server.get("/startupz").status_code == 503
    assert server.get("/metrics").status_code == 200
    assert server.get("/v1/models").status_code == 503
    early = server.complete("a")
    assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
    assert "retry-after" in early.headers
    assert server.log("model loaded") is None, "all of this was while loading"

    os.kill(server.engine_pid, signal.SIGCONT)
    server.wait_ready()
    assert server.metric("generation_tokens_total") == 0, "the self-test is not counted"
    running = stream(server, max_tokens=900)  # of nine seconds: others are refused for five of them
    begun = time.monotonic()
    server.signal(signal.SIGTERM)
    eventually(lambda: server.get("/readyz").json() == {"reason": "draining"}, "unready")
    assert server.complete("abc", max_tokens=1).json()["choices"][0]["text"] == "d", "still serving"
    refused = eventually(
        lambda: (r := server.complete("abc", max_tokens=1)).status_code == 503 and r, "refusing"
    )
    assert time.monotonic() - begun > 3.9
    assert refused.json()["error"]["code"] == "draining"
    assert refused.headers["retry-after"]
    assert refused.headers["connection"] == "close"
    assert server.get("/livez").status_code == 200

    events = running.result()
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert server.wait_exit() == 0
    assert list(private_tmp.iterdir()) == [], "nothing is left behind"


def test_a_full_queue_refuses_with_429(start: Start) -> None:
    server = start("--min-step-ms", "20", "--max-num-seqs", "1", "--max-num-queued-reqs", "1")
    server.wait_ready()
    running = stream(server)
    waiting = ThreadPoolExecutor(1).submit(server.complete, "a", max_tokens=1)
    eventually(lambda: server.metric("num_requests_waiting") == 1, "one waits")
    refused = server.complete("a", max_tokens=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "1"
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGTERM)
    for answer in (running, waiting):
        answer.exception()


def test_what_does_not_finish_in_time_is_aborted(start: Start) -> None:
    server = start(
        "--min-step-ms", "50", "--drain-delay", "0", "--shutdown-timeout", "0.5"
    ).wait_ready()
    running = stream(server)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(server.complete, "a", max_tokens=900, ignore_eos=True)
        eventually(lambda: server.metric("num_requests_running") == 2, "both running")
        server.signal(signal.SIGTERM)
        events = running.result()
        assert events[-2]["choices"][0]["finish_reason"] == "abort"
        assert events[-1] == "[DONE]"
        assert whole.result().json()["choices"][0]["finish_reason"] == "abort"
    assert server.wait_exit() == 0


def test_a_second_sigterm_ends_it_now(start: Start) -> None:
    server = start(
        "--min-step-ms", "50", "--drain-delay", "300", "--shutdown-timeout", "300"
    ).wait_ready()
    running = stream(server)
    server.signal(signal.SIGTERM)
    server.wait_log("draining")
    server.signal(signal.SIGTERM)
    assert running.result()[-2]["choices"][0]["finish_reason"] == "abort"
    assert server.wait_exit() == 0


def test_sigterm_while_loading_ends_it(start: Start) -> None:
    server = start()
    server.wait_log("engine started")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_a_dead_engine_ends_the_server(start: Start, tmp_path: Path) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    server = start("--min-step-ms", "50", "--termination-log", str(reason_file)).wait_ready()
    running = stream(server)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(server.complete, "a", max_tokens=900, ignore_eos=True)
        eventually(lambda: server.metric("num_requests_running") == 2, "both running")
        os.kill(server.engine_pid, signal.SIGKILL)
        assert server.wait_exit(5) == 1, "as promised"
        assert running.result()[-1]["error"]["code"] == "engine_dead", "an error, not a silent end"
        assert whole.result().status_code == 503
        assert whole.result().json()["error"]["code"] == "engine_dead"
    assert "SIGKILL" in reason_file.read_text()
    assert "SIGKILL" in server.wait_log("exiting")["reason"]


def test_an_engine_that_hangs_in_a_step_fails_liveness_and_says_so(
    start: Start, tmp_path: Path
) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    flags = ["--min-step-ms", "20", "--step-timeout", "5", "--termination-log", str(reason_file)]
    server = start(*flags).wait_ready()
    running = stream(server, max_tokens=400)
    os.kill(server.engine_pid, signal.SIGSTOP)
    assert server.get("/livez").status_code == 200, "a slow step is none that hangs"
    hung = eventually(lambda: (r := server.get("/livez")).status_code == 503 and r, "hung")
    told = hung.json()["reason"]
    assert int(told.removeprefix("engine hung: silent for ").removesuffix(" s")) >= 5
    assert reason_file.read_text() == told
    os.kill(server.engine_pid, signal.SIGCONT)
    eventually(lambda: server.get("/livez").status_code == 200, "recovered")
    assert reason_file.read_text() == "", "what it dies of later is something else"
    assert running.result()[-1] == "[DONE]"


def test_a_hung_engine_that_is_told_to_stop_ends_at_once_with_the_reason(
    start: Start, tmp_path: Path
) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    flags = ["--min-step-ms", "20", "--step-timeout", "1", "--termination-log", str(reason_file)]
    server = start(*flags, "--drain-delay", "300", "--shutdown-timeout", "300").wait_ready()
    running = stream(server)
    os.kill(server.engine_pid, signal.SIGSTOP)
    eventually(lambda: server.get("/livez").status_code == 503, "hung")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 1
    assert running.result()[-1]["error"]["code"] == "engine_dead"
    assert reason_file.read_text().startswith("engine hung: silent for ")


def test_an_engine_that_hangs_while_draining_ends_it(start: Start, tmp_path: Path) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    flags = ["--min-step-ms", "20", "--step-timeout", "1", "--termination-log", str(reason_file)]
    server = start(*flags, "--drain-delay", "0", "--shutdown-timeout", "300").wait_ready()
    running = stream(server)
    server.signal(signal.SIGTERM)
    server.wait_log("draining")
    os.kill(server.engine_pid, signal.SIGSTOP)
    assert server.wait_exit() == 1
    assert running.result()[-1]["error"]["code"] == "engine_dead"
    assert reason_file.read_text().startswith("engine hung: silent for ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes cgroups")
def test_an_engine_killed_at_the_memory_limit_is_told_from_other_kills(
    start: Start, tmp_path: Path, memory_group: MemoryGroup
) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    with memory_group.inside():
        server = start("--termination-log", str(reason_file)).wait_ready()
    Path(f"/proc/{server.engine_pid}/oom_score_adj").write_text("1000")
    memory_group.fill()
    assert server.wait_exit() == 1
    assert reason_file.read_text().startswith("out of memory: the kernel killed the engine")


def test_a_step_that_does_not_fit_in_memory_is_computed_in_parts(start: Start) -> None:
    prompt = "abc" * 300
    server = start("--execution", "torch", "--max-num-batched-tokens", "1024").wait_ready()
    size = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{server.engine_pid}/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    resource.prlimit(server.engine_pid, resource.RLIMIT_AS, (size + (4 << 20), size + (4 << 20)))
    answer = server.complete(prompt, max_tokens=3, temperature=0)
    assert answer.json()["choices"][0]["text"] == "def"
    server.wait_log("step does not fit in memory")


@pytest.mark.usefixtures("private_tmp")
def test_a_hung_engine_fails_liveness_and_dies_with_its_parent(start: Start) -> None:
    server = start("--step-timeout", "0.5").wait_ready()
    engine = server.engine_pid
    for _ in range(50):  # over two heartbeats
        assert server.get("/livez").status_code == 200, "it is idle"
        time.sleep(0.05)
    os.kill(engine, signal.SIGSTOP)
    eventually(lambda: server.get("/livez").status_code == 503, "hung")
    assert server.get("/livez").json()["status"] == "hung"
    os.kill(engine, signal.SIGCONT)
    eventually(lambda: server.get("/livez").status_code == 200, "recovered")
    server.signal(signal.SIGKILL)
    eventually(lambda: not alive(engine), "no orphan")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "config.json",
            '{"architectures": ["MambaForCausalLM"]}',
            "MambaForCausalLM is not supported",
        ),
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("model.safetensors", None, "holds no model.safetensors"),
    ],
)
def test_a_model_that_cannot_work_ends_the_server_with_the_reason(
    start: Start, model: Path, tmp_path: Path, file: str, content: str | None, reason: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for source in model.iterdir():
        if source.name != file:
            (broken / source.name).symlink_to(source)
    if content is not None:
        (broken / file).write_text(content)
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    server = start("--model", str(broken), "--termination-log", str(reason_file))
    assert server.wait_exit() == 1
    assert reason in reason_file.read_text()


def test_a_taken_port_ends_the_server(start: Start, tmp_path: Path) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start("--port", str(taken.getsockname()[1]), "--termination-log", str(reason_file))
        assert server.wait_exit() == 1
    assert "cannot listen" in reason_file.read_text()
