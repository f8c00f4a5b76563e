"""Arrivals and lengths. All is drawn before a run, so every policy gets the same requests."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.bench.autoscaling.engine import Request

Rate = Callable[[float], float]  # seconds from the start -> requests per second


@dataclass(frozen=True)
class Lengths:
    """Zipf: P(k) ~ k^-exponent over `ranks` ranks, each `unit` tokens, as BurstGPT's requests are."""

    exponent: float
    ranks: int
    unit: int

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        weights = np.arange(1, self.ranks + 1) ** -self.exponent
        return self.unit * (1 + rng.choice(self.ranks, size=count, p=weights / weights.sum()))

    @property
    def mean(self) -> float:
        ranks = np.arange(1, self.ranks + 1)
        weights = ranks**-self.exponent
        return float(self.unit * (ranks * weights).sum() / weights.sum())


@dataclass(frozen=True)
class Mix:
    """What requests look like."""

    prompt: Lengths
    output: Lengths


CHAT = Mix(Lengths(1.1, 64, 32), Lengths(1.0, 32, 24))
LONG_PROMPTS = Mix(Lengths(0.8, 32, 128), Lengths(1.2, 16, 16))


def constant(level: float) -> Rate:
    return lambda _: level


def step(low: float, high: float, start: float, end: float) -> Rate:
    return lambda t: high if start <= t < end else low


def diurnal(low: float, high: float, period: float) -> Rate:
    """From the trough up to the peak and back."""
    return lambda t: low + (high - low) * (1 - math.cos(2 * math.pi * t / period)) / 2


def arrivals(rng: np.random.Generator, rate: Rate, duration: float, shape: float) -> np.ndarray:
    """Draw arrival times.

    Gaps are Gamma distributed with mean 1 in the time in which the rate is 1, and that time is then
    stretched: shape 1 is a Poisson process, below 1 arrivals come in bursts (BurstGPT: Gamma gaps,
    coefficient of variation 1/sqrt(shape)).
    """
    grid = np.arange(0.0, duration + 1.0)
    cumulated = np.concatenate([[0.0], np.cumsum([rate(t + 0.5) for t in grid[:-1]])])
    count = int(cumulated[-1] + 10 * math.sqrt(cumulated[-1] / shape) + 100)
    operational = np.cumsum(rng.gamma(shape, 1 / shape, size=count))
    return np.interp(operational[operational < cumulated[-1]], cumulated, grid)


@dataclass(frozen=True)
class Scenario:
    """A load. Rates are in replicas: 1 is what one replica can do at most of this mix."""

    name: str
    rate: Rate
    first: float  # the rate at the start, for which replicas are there
    shape: float = 1.0
    mix: Mix = CHAT
    duration: float = 2400.0
    held_out: bool = False  # never looked at while constants were chosen

    def requests(self, seed: int, per_replica: float) -> list[Request]:
        """Draw the requests.

        Args:
            seed: of all that is random.
            per_replica: requests per second that one replica can do of this mix.
        """
        rng = np.random.default_rng(seed)
        times = arrivals(rng, lambda t: per_replica * self.rate(t), self.duration, self.shape)
        prompts = self.mix.prompt.draw(rng, len(times))
        outputs = self.mix.output.draw(rng, len(times))
        return [
            Request(float(t), int(p), int(o))
            for t, p, o in zip(times, prompts, outputs, strict=True)
        ]


def _two_waves(t: float) -> float:
    return 4.0 if 300 <= t < 600 or 1300 <= t < 1600 else 1.0


def _ramp(t: float) -> float:
    return 1.0 + 5.0 * min(max((t - 300) / 900, 0.0), 1.0)


SCENARIOS = (
    Scenario("poisson", constant(3.3), 3.3),
    Scenario("gamma", constant(3.0), 3.0, shape=0.25),
    Scenario("diurnal", diurnal(0.8, 5.5, 2400), 0.8),
    Scenario("step", step(1.2, 4.5, 400, 1600), 1.2),
    Scenario("waves", _two_waves, 1.0, held_out=True),
    Scenario("ramp, gamma", _ramp, 1.0, shape=0.4, held_out=True),
    Scenario("step, long prompts", step(1.0, 4.0, 400, 1600), 1.0, mix=LONG_PROMPTS, held_out=True),
    Scenario("light", constant(0.25), 0.25, held_out=True),
)
