"""Real server processes on loopback, started and ended by the tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.integration.runtime.alphabet import write_alphabet_model

# Generous, because other work may have the cores; a test that waits this long has failed.
PATIENCE = 60.0


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until the condition returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


class Server:
    """One `pagoda-runtime serve` process."""

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "pagoda_runtime", "serve", "--model", str(model)]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--served-model-name",
            "abc",
            "alias",
            *flags,
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.logs: list[dict[str, Any]] = []
        self.reader = threading.Thread(target=self._read_logs)
        self.reader.start()
        self.http = httpx.Client(timeout=PATIENCE)

    def _read_logs(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.logs.append(json.loads(line))
            except ValueError:
                self.logs.append({"message": "not JSON", "line": line})

    def log(self, message: str) -> dict[str, Any] | None:
        """The first log line with this message."""
        return next((line for line in self.logs if line["message"] == message), None)

    def lines(self, message: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines with this message and these fields, so far."""
        found = [line for line in self.logs if line["message"] == message]
        return [line for line in found if all(line.get(k) == v for k, v in fields.items())]

    def wait_log(self, message: str) -> dict[str, Any]:
        """The first log line with this message, as soon as it is there."""
        return eventually(lambda: self.log(message), f"log line {message!r}, but {self.logs[-3:]}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.wait_log('listening')['port']}"

    @property
    def engine_pid(self) -> int:
        return self.wait_log("engine started")["engine_pid"]

    def get(self, path: str) -> httpx.Response:
        return self.http.get(self.url + path)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(self.url + path, json=body)

    def complete(self, prompt: str, **body: Any) -> httpx.Response:
        return self.post("/v1/completions", model="abc", prompt=prompt, **body)

    def wait_ready(self) -> "Server":
        eventually(lambda: self.get("/readyz").status_code == 200, f"ready, but {self.logs[-3:]}")
        return self

    @contextmanager
    def asked(self, path: str, **body: Any) -> Iterator[None]:
        """A request whose client waits for the answer until the context is left, and then goes."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        port = self.wait_log("listening")["port"]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(head.encode() + content)
            yield

    def openai(self) -> OpenAI:
        return OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; labels beside model_name must match."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"pagoda_{name}{{") and all(
                f'{k}="{v}"' in line for k, v in labels.items()
            ):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric pagoda_{name}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        try:
            if (started := self.log("engine started")) is not None:
                engine = started["engine_pid"]
                eventually(lambda: not alive(engine), "engine process gone")
        except AssertionError:
            os.kill(engine, signal.SIGKILL)
            raise
        finally:
            self.reader.join()
            self.http.close()
        assert self.log("not JSON") is None


def alive(pid: int) -> bool:
    """True if the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alphabet")
    write_alphabet_model(path)
    return path


@pytest.fixture(scope="module")
def shared(model: Path) -> Iterator[Server]:
    """A ready server for tests that leave it as they found it. 20 ms a token; 30 blocks of 16
    tokens.
    """
    flags = [
        "--min-step-ms",
        "20",
        "--block-size",
        "16",
        "--max-num-seqs",
        "8",
        "--max-model-len",
        "400",
    ]
    server = Server(
        model, *flags, "--kv-cache-memory-bytes", str(30 * 16 * 1024), "--drain-delay", "0"
    )
    yield server.wait_ready()
    server.signal(signal.SIGTERM)
    server.wait_exit()
    server.close()


@pytest.fixture
def start(model: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of one's own: start(*flags)."""
    servers: list[Server] = []

    def new(*flags: str) -> Server:
        servers.append(Server(model, *flags))
        return servers[-1]

    yield new
    for server in servers:
        server.close()


class MemoryGroup:
    """A cgroup with little memory, v1 or v2."""

    LIMIT = 900 << 20

    def __init__(self) -> None:
        version_1 = Path("/sys/fs/cgroup/memory")
        base = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
        self._home = base
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == ("memory" if version_1.is_dir() else ""):
                self._home = base / path.lstrip("/")
        self._folder = base / f"pagoda-test-{os.getpid()}"
        self._folder.mkdir()
        limit = "memory.limit_in_bytes" if version_1.is_dir() else "memory.max"
        (self._folder / limit).write_text(str(self.LIMIT))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Processes started here belong to the group."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._home / "cgroup.procs").write_text(str(os.getpid()))

    def fill(self) -> None:
        """Have a process in the group ask for more than there is, until the kernel kills one."""
        program = f"import os; x = os.urandom(1 << 20) * {self.LIMIT >> 20}"
        with self.inside():
            hog = subprocess.Popen([sys.executable, "-c", program])
        hog.wait(PATIENCE)

    def close(self) -> None:
        eventually(lambda: not (self._folder / "cgroup.procs").read_text(), "all have left")
        self._folder.rmdir()


@pytest.fixture
def memory_group() -> Iterator[MemoryGroup]:
    group = MemoryGroup()
    yield group
    group.close()


@pytest.fixture
def private_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that servers started from here use for temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setitem(os.environ, "TMPDIR", str(path))
    return path
