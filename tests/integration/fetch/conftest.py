"""`pagoda fetch` as a process against a stand-in for the hub on loopback."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub import Hub, Repo
from tests.kube import eventually
from tests.pagoda_process import free_port

TOKEN = "hf_GoodTokenForTests"
NAME = "acme/tiny"
# A clean environment: no proxy, no hub and no token of whoever runs the tests.
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL")
PERIODS = {"retry-seconds": "0.05", "retry-cap-seconds": "0.2", "deadline-seconds": "20"}


def write_model(folder: Path, *, shard_bytes: int = 300_000) -> Path:
    """Files as a repository has them; the weights are random bytes."""
    content = random.Random(7)
    (folder / "original").mkdir(parents=True)
    files = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": content.randbytes(40_000),
        "chat template+1.jinja": b"{{ messages }}",
        "empty.json": b"",
        "model-00001-of-00002.safetensors": content.randbytes(shard_bytes),
        "model-00002-of-00002.safetensors": content.randbytes(shard_bytes // 2),
        "model.safetensors.index.json": b"{}",
        "pytorch_model.bin": content.randbytes(1000),
        "consolidated.safetensors": content.randbytes(1000),
        "original/params.json": b"{}",
        "README.md": b"# tiny",
        "figure.png": content.randbytes(1000),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


WANTED = {
    "config.json",
    "tokenizer.json",
    "chat template+1.jinja",
    "empty.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
}
SHARD = "model-00001-of-00002.safetensors"


class Fetch:
    """One `pagoda fetch` process."""

    def __init__(self, target: Path, endpoint: str, *, env: dict[str, str], **flags: str):
        self.target = target
        self.termination_log = target.parent / "termination-log"
        self._port = free_port()
        settings = PERIODS | {name.replace("_", "-"): value for name, value in flags.items()}
        command = [sys.executable, "-m", "pagoda", "fetch", "--target", str(target)]
        command += ["--termination-log", str(self.termination_log), f"--progress-port={self._port}"]
        command += [
            f"--{name}={value}" for name, value in ({"uri": f"hf://{NAME}"} | settings).items()
        ]
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self.process = subprocess.Popen(
            command, env=kept | {"HF_ENDPOINT": endpoint} | env, stderr=subprocess.PIPE, text=True
        )
        self.log = ""

    def wait(self, seconds: float = 40) -> int:
        _, log = self.process.communicate(timeout=seconds)
        self.log += log
        return self.process.returncode

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log's lines with this message, after the process has ended."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        return [line for line in lines if line["message"] == message]

    def failure(self) -> dict[str, str]:
        """Why it ended."""
        assert self.wait() == 1, self.log
        text = self.termination_log.read_text()
        assert len(text.encode()) <= 4096
        return dict(json.loads(text))

    def progress(self) -> dict[str, Any]:
        try:
            url = f"http://127.0.0.1:{self._port}/progress"
            # Loading certificates for each question would take longer than the answer.
            return dict(httpx.get(url, timeout=5, trust_env=False, verify=False).json())
        except httpx.TransportError:
            assert self.process.poll() is None, self.process.communicate()[1][-2000:]
            return {}

    def wait_progress(self, **wanted: object) -> dict[str, Any]:
        """The first progress with these values."""

        def there() -> dict[str, Any] | None:
            progress = self.progress()
            return progress if wanted.items() <= progress.items() else None

        return eventually(there, timeout=30, every=0.01, what=f"progress {wanted}") or {}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Fetches:
    """Starts processes and ends them with the test."""

    def __init__(self, target: Path, hub: Hub):
        self.target = target
        self._hub = hub
        self._all: list[Fetch] = []

    def start(
        self, *, env: dict[str, str] | None = None, endpoint: str = "", **flags: str
    ) -> Fetch:
        fetch = Fetch(self.target, endpoint or self._hub.url, env=env or {}, **flags)
        self._all.append(fetch)
        return fetch

    def run(self, *, env: dict[str, str] | None = None, **flags: str) -> Fetch:
        """One that must succeed."""
        fetch = self.start(env=env, **flags)
        assert fetch.wait() == 0, fetch.log
        assert not fetch.termination_log.exists()
        return fetch

    def close(self) -> None:
        for fetch in self._all:
            fetch.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def repo(hub: Hub, tmp_path: Path) -> Repo:
    return hub.add(NAME, write_model(tmp_path / "repo"))


@pytest.fixture
def fetches(hub: Hub, tmp_path: Path) -> Iterator[Fetches]:
    mount = tmp_path / "models"  # the kubelet makes it
    mount.mkdir()
    running = Fetches(mount / "model", hub)
    yield running
    running.close()


def content(folder: Path) -> dict[str, bytes]:
    """What an engine would see; hidden files aside."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if not path.name.startswith(".")
    }


def expected(repo: Repo) -> dict[str, bytes]:
    files = repo.files()
    return {name: files[name] for name in WANTED}
