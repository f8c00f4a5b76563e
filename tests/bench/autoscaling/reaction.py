"""How long a step of the load takes to become a higher count."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from pagoda.autoscaling.law import LOAD

from tests.bench.autoscaling.compare import MODEL, POLICIES, saturate
from tests.bench.autoscaling.load import CHAT, Scenario, step
from tests.bench.autoscaling.verdict import default_of
from tests.bench.autoscaling.world import Autoscaler, World

STEPS = ((0.5, 1.5), (0.5, 2.0), (0.5, 3.0), (2.0, 4.0), (2.0, 6.0))  # replicas' worth of load
COMPARED = ("demand, given", "served tokens/s", "running requests")
START, END, START_DELAY = 300.0, 600.0, 60.0


@dataclass
class Watched:
    """An autoscaler whose first rise after the step is noted."""

    inner: Autoscaler
    rise: float = math.inf  # seconds after the step
    period: float = field(init=False)

    def __post_init__(self) -> None:
        self.period = self.inner.period

    def desired(self, world: World) -> int:
        count = self.inner.desired(world)
        if count > world.spec and world.now > START:
            self.rise = min(self.rise, world.now - START)
        return count


def reaction(policy: str, low: float, high: float, seed: int) -> float:
    capacity = saturate(CHAT)
    load = Scenario("step", step(low, high, START, math.inf), low, duration=END)
    requests = load.requests(seed, capacity.requests)
    scaler = Watched(POLICIES[policy][0](default_of(policy), capacity))
    World(MODEL, requests, END, START_DELAY, math.ceil(low / LOAD), seed).run(scaler)
    return scaler.rise


def table(seeds: Iterable[int]) -> str:
    """Give median and longest time per step and policy."""
    seeds = list(seeds)
    lines = ["| step, replicas' worth | " + " | ".join(COMPARED) + " |"]
    lines.append("|---|" + "---|" * len(COMPARED))
    for low, high in STEPS:
        times = [sorted(reaction(p, low, high, s) for s in seeds) for p in COMPARED]
        cells = [f"{median(t):.0f} s (to {t[-1]:.0f})" for t in times]
        lines.append(f"| {low:g} to {high:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
