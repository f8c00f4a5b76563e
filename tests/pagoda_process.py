"""A command of `pagoda` as a process, the way a pod runs it."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.kube import eventually


class PagodaProcess:
    """Runs against a cluster and says more or less of itself; killed when the test leaves it."""

    def __init__(
        self,
        command: str,
        kubeconfig: Path,
        log: Path,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
    ):
        """Prepare.

        Args:
            command: of `pagoda`.
            kubeconfig: whom it is to the API server.
            log: file that its output is added to.
            settings: its flags by name; a free port for its metrics comes on top.
            environment: variables beside the test's own.
        """
        self._log = log
        self._metrics_port = free_port()
        flags = {**settings, "metrics-port": str(self._metrics_port)}
        self._command = [sys.executable, "-m", "pagoda", command]
        self._command += [f"--{name}={value}" for name, value in flags.items()]
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), **environment}
        # One for all polls, without certificates: reading those takes longer than an answer. No
        # connection is kept, as the process behind it may be another one soon.
        self._http = httpx.Client(
            trust_env=False,
            verify=False,
            timeout=5,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> Self:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output
            )
        return self

    def wait_ready(self) -> Self:
        try:
            eventually(self._is_ready, timeout=60)
        except AssertionError as error:
            error.add_note(f"its log:\n{self.log[-3000:]}")
            self.kill()  # in a `with`, nobody else would
            raise
        return self

    def ready(self) -> bool:
        """Ask once."""
        raise NotImplementedError

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"ended: {self.log[-2000:]}"
        return self.ready()

    def metric(self, name: str) -> float:
        """The sum of one of its own metric's samples."""
        status, text = self._ask(f"http://127.0.0.1:{self._metrics_port}/metrics")
        assert status == 200, "its metrics cannot be read"
        samples = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _ask(self, url: str) -> tuple[int, str]:
        """Status and text; 0 while nobody listens."""
        try:
            answer = self._http.get(url)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text


# Below those that the kernel gives to whoever asks for any, and beside the cluster's: until a process
# listens on it, a port is taken by nobody but by bad luck in here.
_PORTS = range(11_000, 20_000)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
