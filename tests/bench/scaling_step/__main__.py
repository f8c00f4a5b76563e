"""From a step of the load to another count, by the real HPA controller with its default sync of 15 s.

`python -m tests.bench.scaling_step --help`. Every LLMDeployment gets one step, all at different
moments of the HPA's sync; prints a table.
"""

import argparse
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pagoda.api import API_VERSION, KIND
from pagoda.autoscaling import law
from pagoda.autoscaling.scraping.scraper import Pace

from tests.kube import Object
from tests.loaded_cluster import LIFE, Decisions, LoadedCluster, loaded_cluster
from tests.loaded_fleet import Fleet, Machine

# An 8B model on a GPU of the L4 class, as in the simulator: 2.6 answers a second.
MACHINE = Machine(seats=32, seat_rate=16.0, queue=64)
TOKENS = 200.0
STEPS = ((0.5, 1.5), (0.5, 2.0), (0.5, 3.0), (2.0, 4.0), (2.0, 6.0))  # replicas' worth of load
SYNC = 15.0
MOST = 12
BOUND = 20.0
CONTROLLERS = (
    f"--horizontal-pod-autoscaler-sync-period={SYNC:g}s",
    "--horizontal-pod-autoscaler-downscale-stabilization=5m",
)
DEMAND = "demand"
SERVED = {"served, 0.7 V": 0.7, "served, V": 1.0}  # by policy: its target as a share of capacity


@dataclass
class Step:
    """One LLMDeployment and its step."""

    policy: str
    low: float
    high: float
    name: str
    offset: float
    """Seconds within the sync. HPAs made together are looked at together, so that the steps of one size
    meet the sync at evenly spread moments."""
    at: float = 0.0  # seconds since 1970
    changes: tuple[float, ...] = ()  # seconds from the step to each change of the count
    end: int = 0  # the count in the end
    refused: float = 0.0  # requests

    @property
    def start(self) -> int:
        """Replicas that carry the load before the step."""
        return math.ceil(self.low / law.LOAD)

    @property
    def needed(self) -> int:
        """Replicas that carry the load after it."""
        return math.ceil(self.high / law.LOAD)

    @property
    def rise(self) -> float:
        """Seconds to the first change."""
        return self.changes[0] if self.changes else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling_step")
    parser.add_argument("--each", type=int, default=6, help="steps of each size by demand")
    parser.add_argument("--each-served", type=int, default=2, help="and by tokens served")
    parser.add_argument("--seconds", type=float, default=100.0, help="watched after the steps")
    args = parser.parse_args()
    steps = list(_steps(DEMAND, args.each))
    for policy in SERVED:
        steps += _steps(policy, args.each_served)
    print(f"{len(steps)} steps, load {os.getloadavg()[0]:.1f}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="pagoda-bench-") as folder,
        loaded_cluster(
            "bench-scaling",
            Path(folder),
            server=LIFE,
            controller_manager_args=CONTROLLERS,
        ) as loaded,
    ):
        _settle(loaded, steps)
        _measure(loaded, steps, args.seconds)
    print(_table(steps))
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    found = median(step.rise for step in steps if step.policy == DEMAND)
    verdict = "met" if found <= BOUND else "MISSED"
    print(f"median by demand: {found:.1f} s, bound {BOUND:g} s: {verdict}")


def _steps(policy: str, each: int) -> Iterator[Step]:
    prefix = "".join(c for c in policy.lower() if c.isalnum())
    dice = random.Random(0)
    for size, (low, high) in enumerate(STEPS):
        for number in range(each):
            offset = (number + dice.random()) / each * SYNC
            yield Step(policy, low, high, f"{prefix}-{size}-{number}", offset)


def _settle(loaded: LoadedCluster, steps: list[Step]) -> None:
    """Let all serve the load before the step until every window is full, and be autoscaled."""
    for seed, step in enumerate(steps):
        rate = step.low * MACHINE.capacity
        fleet = Fleet(MACHINE, rate=rate, tokens=TOKENS, seed=seed)
        loaded.serve(step.name, fleet, step.start)
    loaded.wait_serving()
    for step in steps:
        if step.policy == DEMAND:
            loaded.api.apply(loaded.autoscaled(step.name, maxReplicas=MOST))
        else:
            # Without spec.replicas the count is whoever's sets it.
            loaded.api.apply(loaded.manifest(step.name))
            loaded.api.apply(_on_served(step))
    loaded.wait_scraped(law.DEFAULT.window + Pace().interval)
    counts = loaded.counts()
    early = [step.name for step in steps if counts[step.name] != step.start]
    if early:
        print(f"not at their count before the step: {', '.join(early)}")


def _on_served(step: Step) -> Object:
    """Build an HPA with the API's default behavior on what is served."""
    average = f"{SERVED[step.policy] * MACHINE.capacity:.0f}"
    metric = {
        "describedObject": {"apiVersion": API_VERSION, "kind": KIND, "name": step.name},
        "metric": {"name": "served_tokens_per_second"},
        "target": {"type": "AverageValue", "averageValue": average},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": step.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": step.name},
            "minReplicas": 1,
            "maxReplicas": MOST,
            "metrics": [{"type": "Object", "object": metric}],
        },
    }


def _measure(loaded: LoadedCluster, steps: list[Step], seconds: float) -> None:
    decisions = Decisions(loaded.api.cluster)
    timers = [threading.Timer(step.offset, _raise, (loaded, step)) for step in steps]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()
    time.sleep(seconds)  # that nothing happens is a result, too
    counts, changes = loaded.counts(), decisions.timed(loaded.api.namespace)
    for step in steps:
        step.changes = tuple(
            at - step.at for name, at in changes if name == step.name and at >= step.at
        )
        step.end = counts[step.name]
        step.refused = sum(engine.rejected for engine in loaded.fleets[step.name].engines)


def _raise(loaded: LoadedCluster, step: Step) -> None:
    step.at = time.time()
    loaded.fleets[step.name].load(step.high * MACHINE.capacity)


def _table(steps: Iterable[Step]) -> str:
    """Give each policy and step a line, and each policy one over all."""
    by_policy: dict[str, list[Step]] = {}
    for step in steps:
        by_policy.setdefault(step.policy, []).append(step)
    lines = [
        "| HPA on | step, replicas' worth | steps | first change after, s: median (min to max) "
        "| last | replicas: before, needed, reached | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for policy, all_steps in by_policy.items():
        for low, high in STEPS:
            of_size = [s for s in all_steps if (s.low, s.high) == (low, high)]
            lines.append(_line(policy, f"{low:g} to {high:g}", of_size))
        lines.append(_line(policy, "all", all_steps))
    return "\n".join(lines)


def _line(policy: str, size: str, steps: list[Step]) -> str:
    rises = sorted(step.rise for step in steps)
    spread = f"{_seconds(median(rises))} ({_seconds(rises[0])} to {_seconds(rises[-1])})"
    last = _seconds(median(step.changes[-1] if step.changes else math.inf for step in steps))
    ends = sorted({step.end for step in steps})
    reached = f"{ends[0]} to {ends[-1]}" if len(ends) > 1 else f"{ends[0]}"
    counts = "" if size == "all" else f"{steps[0].start}, {steps[0].needed}, {reached}"
    refused = median(step.refused for step in steps)
    return f"| {policy} | {size} | {len(steps)} | {spread} | {last} | {counts} | {refused:.0f} |"


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.1f}"


if __name__ == "__main__":
    main()
