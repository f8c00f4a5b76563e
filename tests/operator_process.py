"""The operator as a process, the way a pod runs it, with short periods."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

from tests.kube import eventually

# About twenty times faster than life where a test has to wait for it.
PERIODS = {
    "relist-seconds": "3",
    "signals-seconds": "1",
    "unschedulable-seconds": "1",
    "transient-cap-seconds": "1",
    "terminal-cap-seconds": "2",
    "lease-duration-seconds": "2",
    "lease-renew-deadline-seconds": "1.4",
    "lease-retry-seconds": "0.2",
    "shutdown-seconds": "5",
}


class OperatorProcess:
    """`pagoda operator` against a cluster; killed when the test leaves it."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        identity: str,
        periods: Mapping[str, str] = PERIODS,
        **flags: str,
    ):
        self._kubeconfig = kubeconfig
        self._log = log
        self._ports = {"health-port": free_port(), "metrics-port": free_port()}
        settings = dict(periods) | {k: str(v) for k, v in self._ports.items()}
        settings |= {name.replace("_", "-"): value for name, value in flags.items()}
        self._command = [sys.executable, "-m", "pagoda", "operator"]
        self._command += [f"--{name}={value}" for name, value in settings.items()]
        # One for all polls, without certificates: reading those takes longer than an answer. No
        # connection is kept, as the process behind it may be another one soon.
        self._http = httpx.Client(
            trust_env=False,
            verify=False,
            timeout=5,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> "OperatorProcess":
        environment = os.environ | {"KUBECONFIG": str(self._kubeconfig), "POD_NAME": self._identity}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=output, stderr=output
            )
        try:
            eventually(self.ready, timeout=60)
        except AssertionError as error:
            error.add_note(f"log of operator {self._identity}:\n{self.log[-3000:]}")
            self.kill()  # in a `with`, nobody else would
            raise
        return self

    def ready(self) -> bool:
        assert self.process.poll() is None, f"ended: {self.log[-2000:]}"
        return self._ask("health-port", "/readyz") == 200

    def healthy(self) -> bool:
        return self._ask("health-port", "/healthz") == 200

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = self._http.get(f"http://127.0.0.1:{self._ports['metrics-port']}/metrics").text
        samples = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def leads(self) -> bool:
        return self.metric("leader_election_master_status") == 1

    def settle(self, passes: int = 0) -> None:
        """Wait until it leads, has done at least so many passes and has nothing left to do."""

        def settled() -> bool:
            return (
                self.leads()
                and self.metric("workqueue_depth") == 0
                and self.metric("controller_runtime_active_workers") == 0
                and self.passes() >= passes
            )

        eventually(settled, what="the operator settles")

    def passes(self) -> float:
        """How many passes it has done."""
        return self.metric("controller_runtime_reconcile_total")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)

    def __enter__(self) -> "OperatorProcess":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _ask(self, port: str, path: str) -> int:
        try:
            url = f"http://127.0.0.1:{self._ports[port]}{path}"
            return self._http.get(url).status_code
        except httpx.TransportError:
            return 0


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
