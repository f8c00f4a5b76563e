"""What the metrics server costs with thousands of engines, and how fast it answers; prints a table.

Meant for a network namespace of its own (`make bench-metrics`), in which every loopback address
can be an engine's.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import Cluster, up
from tests.bench.metrics_server import fleet
from tests.bench.metrics_server.page import WIDTH, template
from tests.bench.operator.http import Aiohttp
from tests.bench.operator.measure import cpu_seconds, memory_mib
from tests.integration.metrics.conftest import GROUP_PATH, installed, servers, wait_available
from tests.kube import eventually
from tests.metrics_server_process import PERIODS, MetricsServerProcess

HPA = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
WORKERS = 5  # the HPA controller's (--concurrent-horizontal-pod-autoscaler-syncs)
METRICS = ("demand_tokens_per_second", "backlog_seconds", "requests_waiting")
PRODUCTION = {
    "scrape-seconds": "5",
    "scrape-timeout-seconds": "2",
    "window-seconds": "90",
    "short-window-seconds": "15",
    "drain-seconds": "0",
}
assert PRODUCTION.keys() == PERIODS.keys()


@dataclass(frozen=True)
class Usage:
    """What the process did between two moments."""

    cores: float
    scrapes: float  # per second
    failures: float
    late: float  # mean seconds after which a scrape that was due began

    HEAD = f"{'cores':>8}{'scrapes/s':>12}{'failed':>9}{'late, ms':>10}{'memory, MiB':>12}"

    def __str__(self) -> str:
        return (
            f"{self.cores:>8.2f}{self.scrapes:>12.0f}{self.failures:>9.0f}{1000 * self.late:>10.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.metrics_server", description=__doc__)
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=4, help="of each")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[20, 200],
        help="queries a second: what the HPA controller's default limit lets through, and what "
        "1,000 HPAs with three metrics ask every 15 s",
    )
    parser.add_argument("--engine-processes", type=int, default=2)
    args = parser.parse_args()
    before, after = template()
    pods = args.deployments * args.pods
    print(
        f"{args.deployments} LLMDeployments, {pods} engines, "
        f"pages of {len(before) + WIDTH + len(after)} bytes; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pagoda-bench-")))
        for _ in range(args.engine_processes):
            stack.enter_context(_engines())
        cluster = stack.enter_context(
            up("bench-metrics", controller_manager_args=["--controllers=*,-deployment"])
        )
        cluster.kubectl("apply", "--server-side", "-f", "crds")
        api = stack.enter_context(installed(cluster))
        began = time.monotonic()
        asyncio.run(fleet.create(cluster.kubeconfig, api.namespace, args.deployments, args.pods))
        print(f"made in {time.monotonic() - began:.0f} s", flush=True)
        make = stack.enter_context(servers(api, folder))
        server = make(**{name.replace("-", "_"): value for name, value in PRODUCTION.items()})
        began = time.monotonic()
        eventually(server.ready, timeout=180, every=0.5)
        wait_available(api)
        print(f"ready after {time.monotonic() - began:.0f} s", flush=True)

        scraping = _watch(server, args.seconds)
        alone = memory_mib(server.process.pid)
        print(f"\n{'':24}{scraping.HEAD}", flush=True)
        print(f"{'scraping only':24}{scraping}{alone:>12.0f}", flush=True)
        answers = []
        for rate in args.rates:
            latencies, bare, asked = _ask(cluster, server, api.namespace, rate, args)
            answers.append(f"{rate:.0f} queries a second: {_spread(latencies)}")
            answers.append(f"{'/version meanwhile':>20}: {_spread(bare)}")
            peak = memory_mib(server.process.pid, "VmHWM")
            print(f"{f'with {rate:.0f} queries/s':24}{asked}{peak:>12.0f}", flush=True)
        print("\nThrough the API server, each object in turn:")
        print("\n".join(answers))
        print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def _spread(latencies: list[float]) -> str:
    latencies.sort()
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return ", ".join(
        f"{name} {1000 * latencies[min(int(share * len(latencies)), len(latencies) - 1)]:.1f} ms"
        for name, share in shares.items()
    )


@contextmanager
def _engines() -> Iterator[None]:
    # Elsewhere in truth: they must not stand in the way of what is measured.
    command = ["nice", "-n", "10", sys.executable, "-m", "tests.bench.metrics_server.engines"]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def _watch(server: MetricsServerProcess, seconds: float) -> Usage:
    """Let it scrape and nothing else."""
    begin = _counters(server)
    time.sleep(seconds)
    return _usage(begin, _counters(server))


def _ask(
    cluster: Cluster,
    server: MetricsServerProcess,
    namespace: str,
    rate: float,
    args: argparse.Namespace,
) -> tuple[list[float], list[float], Usage]:
    """Ask as the HPA controller does, each deployment in turn, at a fixed rate."""
    kubeconfig = cluster.kubeconfig_for(HPA, ["system:serviceaccounts", "system:authenticated"])
    begin = _counters(server)
    latencies, bare = asyncio.run(_open_loop(kubeconfig, namespace, rate, args))
    return latencies, bare, _usage(begin, _counters(server))


async def _open_loop(
    kubeconfig: Path, namespace: str, rate: float, args: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Latencies of queries, and of what the API server answers by itself at the same moments."""
    http = Aiohttp(kubeconfig, WORKERS)
    beside = Aiohttp(kubeconfig, 1)
    latencies: list[float] = []
    bare: list[float] = []
    root = f"{GROUP_PATH}/namespaces/{namespace}/llmdeployments.serving.pagoda.dev"

    async def one(number: int, due: float) -> None:
        # All metrics of one HPA, then the next one's.
        metric = METRICS[number % len(METRICS)]
        name = f"chat-{number // len(METRICS) % args.deployments}"
        try:
            await http.send("GET", f"{root}/{name}/{metric}", "", "application/json")
        except RuntimeError as error:
            # Capacity is not known: an error is the right answer, and takes as long as another.
            if "CapacityUnknown" not in str(error):
                raise
        latencies.append(time.monotonic() - due)

    async def version(due: float) -> None:
        await beside.send("GET", "/version", "", "application/json")
        bare.append(time.monotonic() - due)

    began = time.monotonic()
    asked: list[asyncio.Task[None]] = []
    for number in range(round(rate * args.seconds)):
        due = began + number / rate
        await asyncio.sleep(max(due - time.monotonic(), 0))
        asked.append(asyncio.create_task(one(number, due)))
        if not number % max(1, int(rate / 20)):
            asked.append(asyncio.create_task(version(due)))
    await asyncio.gather(*asked)
    await http.close()
    await beside.close()
    return latencies, bare


def _counters(server: MetricsServerProcess) -> dict[str, float]:
    return {
        "time": time.monotonic(),
        "cpu": cpu_seconds(server.process.pid),
        "scrapes": server.metric("pagoda_scrape_duration_seconds_count"),
        "failures": server.metric("pagoda_scrape_failures_total"),
        "late": server.metric("pagoda_scrape_lateness_seconds_sum"),
        "begun": server.metric("pagoda_scrape_lateness_seconds_count"),
    }


def _usage(begin: dict[str, float], end: dict[str, float]) -> Usage:
    moved = {name: end[name] - begin[name] for name in end}
    return Usage(
        cores=moved["cpu"] / moved["time"],
        scrapes=moved["scrapes"] / moved["time"],
        failures=moved["failures"],
        late=moved["late"] / max(moved["begun"], 1),
    )


if __name__ == "__main__":
    main()
