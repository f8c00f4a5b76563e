"""All of Pagoda on a real control plane, and LLMDeployments whose engines are under load.

Real are the API server with its aggregator, the controllers (the HPA's among them), the scheduler,
the operator and the metrics server, each a process; kwok plays the kubelet, and engines are played
by `tests.loaded_fleet`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagoda.autoscaling.law import DEFAULT, LOAD
from pagoda.autoscaling.scraping.scraper import Pace

from dev.cluster import Cluster, up
from tests.builders import manifest
from tests.integration.control.conftest import operator_for, with_crds
from tests.integration.metrics.conftest import StartServer, installed, servers, wait_available
from tests.kube import Api, Audit, Object, eventually
from tests.loaded_fleet import Fleet
from tests.metrics_server_process import MetricsServerProcess
from tests.operator_process import OperatorProcess
from tests.played_engines import PlayedEngines

HPA = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
ROOM = {"cpu": "1000", "memory": "8Ti", "pods": "500"}
# Flags of the metrics server as in life; tests have shorter ones by default.
LIFE = {
    "scrape_seconds": f"{Pace().interval:g}",
    "scrape_timeout_seconds": f"{Pace().timeout:g}",
    "window_seconds": f"{DEFAULT.window:g}",
    "short_window_seconds": f"{DEFAULT.short_window:g}",
}
# Up and down at once and by any number: whatever the metric asks for is done.
AT_ONCE = {
    direction: {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 100, "periodSeconds": 1}],
    }
    for direction in ("scaleUp", "scaleDown")
}


@dataclass
class LoadedCluster:
    """The processes, and what users and tests do."""

    api: Api
    start_server: StartServer
    folder: Path
    fleets: dict[str, Fleet] = field(default_factory=dict)
    operator: OperatorProcess = field(init=False)
    server: MetricsServerProcess = field(init=False)

    def start_operator(self, identity: str) -> None:
        """Start the operator, or another one."""
        self.operator = operator_for(
            self.api.cluster,
            self.folder / f"operator-{identity}.log",
            identity,
            self.api.namespace,
            namespace="",
        ).start()

    def restart_server(self, **flags: str) -> None:
        """Kill the metrics server and start it anew behind the same Service."""
        port = self.server.port
        self.server.kill()
        self.server = self.start_server(port=port, **flags)

    def manifest(self, name: str, *, seed: int = 0, **fields: Any) -> Object:
        """Build an LLMDeployment; another seed is another pod template."""
        engine = {"args": [f"--seed={seed}"]}
        model = {"uri": "hf://org/toy"}
        return manifest(name, self.api.namespace, model=model, engine=engine, **fields)

    def autoscaled(self, name: str, *, seed: int = 0, **autoscaling: Any) -> Object:
        """Build one whose count follows its load; each replica is to carry its usual share."""
        target = round(LOAD * self.fleets[name].machine.capacity)
        fields = {"maxReplicas": 20, "targetTokensPerSecond": target} | autoscaling
        return self.manifest(name, seed=seed, autoscaling=fields)

    def serve(self, name: str, fleet: Fleet, replicas: int) -> None:
        """Order a fixed number of replicas."""
        self.fleets[name] = fleet
        self.api.apply(self.manifest(name, replicas=replicas))

    def wait_serving(self) -> None:
        """Wait until all replicas serve, those that have too much to do included."""

        def serves(name: str) -> bool:
            llmd = self.api.get("llmd", name)
            assert llmd is not None
            wanted = llmd["status"]["desiredReplicas"]
            assert llmd["status"]["ready"] == f"{wanted}/{wanted}"
            return bool(self.api.condition(name)["status"] == "True")

        for name in self.fleets:
            eventually(lambda name=name: serves(name), timeout=60)

    def wait_scraped(self, seconds: float) -> None:
        """Wait until every engine that is still there has been asked over so long a time."""
        began = time.monotonic()
        asked = {engine: engine.asked for fleet in self.fleets.values() for engine in fleet.engines}

        def scraped() -> bool:
            there = {engine for fleet in self.fleets.values() for engine in fleet.engines}
            unasked = [e for e, before in asked.items() if e in there and e.asked == before]
            return time.monotonic() - began >= seconds and not unasked

        eventually(scraped, timeout=seconds + 30)

    def autoscaling(self, name: str) -> Object:
        """Read the condition AutoscalingActive."""
        return self.api.condition(name, "AutoscalingActive")

    def wait_active(self) -> None:
        """Wait until every count follows its load."""
        for name in self.fleets:
            eventually(lambda name=name: self.autoscaling(name)["status"] == "True", timeout=60)

    def counts(self) -> dict[str, int]:
        """Read how many replicas each is to have."""
        found = self.api.list("deployment", "app.kubernetes.io/managed-by=pagoda")
        return {d["metadata"]["name"]: d["spec"]["replicas"] for d in found}


class Decisions:
    """Every change of a count by the HPA controller since a moment, from the audit log."""

    def __init__(self, cluster: Cluster):
        self._audit = Audit(cluster, HPA, "")

    def of(self, namespace: str) -> list[str]:
        """Name the LLMDeployments whose count was changed, once for each change."""
        return [name for name, _ in self.timed(namespace)]

    def timed(self, namespace: str) -> list[tuple[str, float]]:
        """The same, each with its time in seconds since 1970."""
        writes = self._audit.timed_writes(namespace=namespace)
        parted = [(*text.split(), at) for text, at in writes]
        return [(name, at) for _, resource, name, at in parted if resource.endswith("/scale")]


@contextmanager
def loaded_cluster(
    name: str,
    folder: Path,
    *,
    server: Mapping[str, str],
    controller_manager_args: Sequence[str] = (),
) -> Iterator[LoadedCluster]:
    """Start everything, with no LLMDeployment yet.

    Args:
        name: of the cluster.
        folder: for logs.
        server: flags of the metrics server, names with underscores.
        controller_manager_args: flags of the controller manager.
    """
    with ExitStack() as stack:
        cluster = stack.enter_context(
            up(name, scheduler=True, controller_manager_args=controller_manager_args)
        )
        with_crds(cluster)
        cluster.start_kwok(ready_seconds=0.5, drain_seconds=0.5)
        cluster.add_fake_node("node", room=ROOM)
        api = stack.enter_context(installed(cluster))
        start = stack.enter_context(servers(api, folder))
        loaded = LoadedCluster(api, start, folder)
        stack.enter_context(PlayedEngines(api, loaded.fleets))
        loaded.server = start(**server)
        loaded.start_operator("one")
        stack.callback(lambda: loaded.operator.kill())
        wait_available(api)
        yield loaded
