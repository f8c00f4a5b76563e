"""The metrics server as a process, with short periods."""

from pathlib import Path

from tests.pagoda_process import PagodaProcess, free_port

PERIODS = {
    "scrape-seconds": "0.2",
    "scrape-timeout-seconds": "0.5",
    "window-seconds": "3",
    "short-window-seconds": "1",
    "drain-seconds": "0",
}


class MetricsServerProcess(PagodaProcess):
    """`pagoda metrics-server` on loopback."""

    def __init__(
        self, kubeconfig: Path, log: Path, *, namespace: str, port: int | None = None, **flags: str
    ):
        self.port = port or free_port()
        settings = PERIODS | {
            "host": "127.0.0.1",
            "port": str(self.port),
            "service-port": str(self.port),
            "service-namespace": namespace,
        }
        settings |= {name.replace("_", "-"): value for name, value in flags.items()}
        super().__init__("metrics-server", kubeconfig, log, settings, {})

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        return self.probe("/readyz").startswith("200")

    def probe(self, path: str) -> str:
        """Status and text of an open path, asked as the kubelet does; "" while nobody listens."""
        status, text = self._ask(self.url + path)
        return f"{status} {text}" if status else ""
