"""The liveness probe of vLLM as the kubelet runs it, against a stand-in for vLLM's HTTP server."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pagoda.engines import ENGINES

from tests.kube import eventually


class StandIn(ThreadingHTTPServer):
    """Says what vLLM would say in a state that the tests choose."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health = 200
        self.running = 0
        self.open_requests = 0
        self.tokens = 0
        self.key: str | None = None
        self.silent: set[str] = set()  # paths that get no answer
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        status, body = 200, ""
        if self.path == "/health":
            status = self.server.health
        elif self.path == "/load":
            body = json.dumps({"server_load": self.server.open_requests})
        elif self.path == "/metrics":
            body = f'vllm:num_requests_running{{engine="0"}} {self.server.running}\n'
            body += f'vllm:generation_tokens_total{{engine="0"}} {self.server.tokens}\n'
        self.answer(status, body)

    def do_POST(self) -> None:
        key = self.server.key
        refused = key is not None and self.headers["Authorization"] != f"Bearer {key}"
        if refused:
            self.answer(401, "")
        else:
            self.answer(200, "{}")

    def answer(self, status: int, body: str) -> None:
        if self.path in self.server.silent:
            self.server.released.wait()
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def vllm() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


class Probe:
    """Runs the command of the container's probe; `said` is what the container would end with."""

    def __init__(self, port: int, folder: Path) -> None:
        *command, _ = ENGINES["vllm"].live.command
        self.command = [sys.executable, *command[1:], str(port)]
        self.state, self.termination_log = folder / "state.json", folder / "termination-log"
        self.termination_log.touch()
        self.env = os.environ | {
            "PAGODA_HANG_SECONDS": "1",
            "PAGODA_LIVENESS_STATE": str(self.state),
            "PAGODA_TERMINATION_LOG": str(self.termination_log),
        }

    def __call__(self) -> tuple[int, str]:
        done = subprocess.run(self.command, env=self.env, capture_output=True, text=True)
        assert not done.stderr
        return done.returncode, done.stdout

    def until_it_fails(self) -> str:
        return eventually(lambda: (got := self())[0] == 1 and got[1], what="the probe fails")

    @property
    def said(self) -> str:
        return self.termination_log.read_text()


@pytest.fixture
def probe(vllm: StandIn, tmp_path: Path) -> Probe:
    return Probe(vllm.server_port, tmp_path)


def test_hang_is_said_and_taken_back(vllm: StandIn, probe: Probe):
    vllm.running = 3
    assert probe() == (0, "")
    line = probe.until_it_fails()
    assert line.startswith(
        "engine hung: 3 requests are running and no figure of engine 0 has moved"
    )
    assert probe.said == line.strip()
    vllm.tokens += 1
    assert probe() == (0, "")
    assert probe.said == ""


def test_others_words_are_left_in_the_termination_log(probe: Probe):
    probe.termination_log.write_text("out of memory")
    assert probe() == (0, "")
    assert probe.said == "out of memory"


@pytest.mark.parametrize("health", [503, 500])
def test_dead_engine(vllm: StandIn, probe: Probe, health: int):
    vllm.health = health
    assert probe() == (1, f"engine dead: /health answers {health}\n")


def test_nobody_listens(vllm: StandIn, probe: Probe):
    vllm.socket.close()
    assert probe() == (1, "engine dead: nobody listens\n")


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_late_answers_are_no_hang_but_lasting_silence_is(vllm: StandIn, probe: Probe, path: str):
    vllm.running = 1
    vllm.silent = {path}
    assert probe() == (0, ""), "two seconds without an answer, at the first probe"
    line = probe.until_it_fails()
    assert line.startswith("engine hung: its API server has not answered for")


def test_open_requests_convict_only_with_a_silent_engine(vllm: StandIn, probe: Probe):
    vllm.open_requests = 2
    probe()
    kept = json.loads(probe.state.read_text())
    kept["open_since"] -= 60
    probe.state.write_text(json.dumps(kept))
    assert probe() == (0, ""), "it gives its token"
    vllm.silent = {"/v1/completions"}
    code, line = probe()
    assert (code, line[:41]) == (1, "engine hung: 2 requests are open and no s")


def test_key_of_the_environment_opens_the_api(vllm: StandIn, probe: Probe):
    vllm.open_requests, vllm.key = 1, "secret"
    vllm.silent = {"/v1/completions"}
    probe.env["VLLM_API_KEY"] = "secret"
    assert "requests are open" in probe.until_it_fails()


def test_samples_of_an_earlier_process_are_dropped(vllm: StandIn, probe: Probe):
    vllm.running = 1
    probe.until_it_fails()
    kept = json.loads(probe.state.read_text())
    probe.state.write_text(json.dumps(kept | {"process": "another"}))
    assert probe() == (0, "")


def test_without_a_place_for_samples_nothing_is_killed(vllm: StandIn, probe: Probe):
    vllm.running = 1
    probe.env["PAGODA_LIVENESS_STATE"] = "/proc/no-such-folder/state"
    code, said = probe()
    assert code == 0
    assert said.startswith("cannot keep samples")
