"""Run every policy on every scenario, start delay and seed."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from pagoda.autoscaling.law import DEFAULT, LOAD, Target

from tests.bench.autoscaling.engine import Model, Replica, Request
from tests.bench.autoscaling.load import SCENARIOS, Mix
from tests.bench.autoscaling.policies import (
    ActiveRequests,
    HpaOnPods,
    Ours,
    queue_length,
    served_tokens,
)
from tests.bench.autoscaling.world import MAX_REPLICAS, MIN_REPLICAS, Autoscaler, World

MODEL = Model()
TTFT_SECONDS, TPOT_SECONDS = 2.0, 0.1
BY_NAME = {s.name: s for s in SCENARIOS}
DELAYS = (5.0, 60.0, 300.0)


@dataclass(frozen=True)
class Capacity:
    """What one replica does when it never runs out of requests of one mix."""

    requests: float  # per second
    tokens: float  # output-equivalent, per second


@cache
def saturate(mix: Mix, count: int = 4000) -> Capacity:
    """Measure a replica's capacity for a mix."""
    rng = np.random.default_rng(0)
    replica = Replica(Model(max_queue=count), 0.0)
    lengths = zip(mix.prompt.draw(rng, count), mix.output.draw(rng, count), strict=True)
    replica.waiting.extend(Request(0.0, int(p), int(o)) for p, o in lengths)
    while replica.waiting:
        replica.advance(replica.time + 1.0)
    tokens = replica.generated + DEFAULT.prompt_weight * replica.prompted
    return Capacity(replica.finished / replica.time, tokens / replica.time)


# Per policy the setting it is documented with in the middle, and one to each side of it.
POLICIES: dict[str, tuple[Callable[[float, Capacity], Autoscaler], tuple[float, float, float]]] = {
    "demand, given": (
        lambda x, c: Ours(Target(c.tokens, x * c.tokens)),
        (0.55, LOAD, 0.85),
    ),
    "demand, learned": (lambda x, c: Ours(None), (LOAD,)),
    "served tokens/s": (
        lambda x, c: HpaOnPods(served_tokens, x * c.tokens),
        (0.55, LOAD, 0.85),
    ),
    "queue length": (lambda x, c: HpaOnPods(queue_length, x), (1.0, 4.0, 16.0)),
    "running requests": (
        lambda x, c: ActiveRequests(x * MODEL.max_num_seqs),
        (0.4, LOAD, 1.0),
    ),
}


@dataclass(frozen=True)
class Row:
    scenario: str
    delay: float
    policy: str
    setting: float
    seed: int
    attainment: float
    replica_seconds: float
    refused: float  # share of the requests
    turns: int


@dataclass(frozen=True)
class Job:
    scenario: str  # by name, which another process can be told
    delay: float
    policy: str
    setting: float
    seed: int


def run(job: Job) -> Row:
    scenario = BY_NAME[job.scenario]
    capacity = saturate(scenario.mix)
    requests = scenario.requests(job.seed, capacity.requests)
    first = min(max(math.ceil(scenario.first / LOAD), MIN_REPLICAS), MAX_REPLICAS)
    world = World(MODEL, requests, scenario.duration, job.delay, first, job.seed)
    result = world.run(POLICIES[job.policy][0](job.setting, capacity))
    return Row(
        job.scenario,
        job.delay,
        job.policy,
        job.setting,
        job.seed,
        result.attainment(TTFT_SECONDS, TPOT_SECONDS),
        result.replica_seconds,
        result.refused / len(requests),
        result.changes,
    )


def jobs(seeds: Iterable[int], *, held_out: bool | None = None) -> Iterator[Job]:
    """List the runs, of all scenarios or of those that were held out or were not."""
    for scenario in SCENARIOS:
        if held_out is not None and scenario.held_out != held_out:
            continue
        for delay in DELAYS:
            for name, (_, settings) in POLICIES.items():
                for setting in settings:
                    for seed in seeds:
                        yield Job(scenario.name, delay, name, setting, seed)


def run_all(todo: Iterable[Job], processes: int) -> list[Row]:
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(run, todo, chunksize=4))
