"""The metrics server as a process, the way a pod runs it, with short periods."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

from tests.kube import eventually
from tests.operator_process import free_port

PERIODS = {
    "scrape-seconds": "0.2",
    "scrape-timeout-seconds": "0.5",
    "window-seconds": "3",
    "short-window-seconds": "1",
    "drain-seconds": "0",
}


class MetricsServerProcess:
    """`pagoda metrics-server` on loopback; killed when the test leaves it."""

    def __init__(
        self, kubeconfig: Path, log: Path, *, namespace: str, port: int | None = None, **flags: str
    ):
        self.port = port or free_port()
        self._metrics_port = free_port()
        self._kubeconfig = kubeconfig
        self._log = log
        settings: Mapping[str, str] = PERIODS | {
            "host": "127.0.0.1",
            "port": str(self.port),
            "service-port": str(self.port),
            "metrics-port": str(self._metrics_port),
            "service-namespace": namespace,
        }
        settings |= {name.replace("_", "-"): value for name, value in flags.items()}
        self._command = [sys.executable, "-m", "pagoda", "metrics-server"]
        self._command += [f"--{name}={value}" for name, value in settings.items()]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> "MetricsServerProcess":
        environment = os.environ | {"KUBECONFIG": str(self._kubeconfig)}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=output, stderr=output
            )
        return self

    def wait_ready(self) -> "MetricsServerProcess":
        try:
            eventually(self.ready, timeout=60)
        except AssertionError as error:
            error.add_note(f"log of the metrics server:\n{self.log[-3000:]}")
            raise
        return self

    def ready(self) -> bool:
        assert self.process.poll() is None, f"ended: {self.log[-2000:]}"
        return self.probe("/readyz").startswith("200")

    def probe(self, path: str) -> str:
        """Status and text of an open path, asked as the kubelet does; "" while nobody listens."""
        try:
            answer = httpx.get(self.url + path, verify=False, trust_env=False, timeout=5)
        except httpx.TransportError:
            return ""
        return f"{answer.status_code} {answer.text}"

    def metric(self, name: str) -> float:
        """The sum of one of its own metric's samples."""
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        text = httpx.get(url, trust_env=False, timeout=5).text
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

    def __enter__(self) -> "MetricsServerProcess":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
