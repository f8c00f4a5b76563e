"""The operator as a process, with short periods."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.kube import eventually
from tests.pagoda_process import PagodaProcess, free_port

# About twenty times faster than life where a test has to wait for it.
PERIODS = {
    "relist-seconds": "3",
    "signals-seconds": "1",
    "unschedulable-seconds": "1",
    "transient-cap-seconds": "1",
    "terminal-cap-seconds": "2",
    # Longer than a busy machine holds a leader up: it would end, and with it what is tested.
    "lease-duration-seconds": "6",
    "lease-renew-deadline-seconds": "5",
    "lease-retry-seconds": "0.2",
    "shutdown-seconds": "5",
}


class OperatorProcess(PagodaProcess):
    """`pagoda operator`."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        identity: str,
        periods: Mapping[str, str] = PERIODS,
        **flags: str,
    ):
        self._health_port = free_port()
        settings = {**periods, "health-port": str(self._health_port)}
        settings |= {name.replace("_", "-"): value for name, value in flags.items()}
        super().__init__("operator", kubeconfig, log, settings, {"POD_NAME": identity})

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        return super().start().wait_ready()

    def ready(self) -> bool:
        return self._health("/readyz") == 200

    def healthy(self) -> bool:
        return self._health("/healthz") == 200

    def leads(self) -> bool:
        return self.metric("leader_election_master_status") == 1

    def settle(self, passes: int = 0) -> None:
        """Wait until it leads, has done at least so many passes and has nothing left to do."""

        def settled() -> bool:
            # What was done is read first: if all that was added later on is among it, nothing waits
            # and nothing is being done. Gauges of both could be read around a change of them.
            done = self.metric("workqueue_work_duration_seconds_count")
            added = self.metric("workqueue_adds_total")
            return self.leads() and done == added and self.passes() >= passes

        eventually(settled, timeout=40, what="the operator settles")

    def passes(self) -> float:
        """How many passes it has done."""
        return self.metric("controller_runtime_reconcile_total")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _health(self, path: str) -> int:
        return self._ask(f"http://127.0.0.1:{self._health_port}{path}")[0]
