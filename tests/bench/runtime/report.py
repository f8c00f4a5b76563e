"""The tables: medians over the rounds, with the smallest and the largest value."""

import statistics
from collections.abc import Sequence

from tests.bench.runtime.goals import GOALS, Goal
from tests.bench.runtime.rounds import BATCHES, Figures

_COLUMNS = {
    "rate 1": "1 request, tok/s",
    **{f"rate {size}": f"{size} requests, tok/s" for size in BATCHES},
    "decode": "decode alone, tok/s",
    "prefill": "prefill, tok/s",
    "ttft 1": "TTFT at 1, s",
    f"ttft {BATCHES[-1]}": f"TTFT p50 at {BATCHES[-1]}, s",
    "start": "start to ready, s",
}


def goals(rounds: Sequence[Figures]) -> str:
    """Each ratio: taken in each round, then the median of the rounds beside its bound."""
    lines = [
        "| ratio of each round | median (min to max) | bound | aim | |",
        "|---|---|---|---|---|",
    ]
    for goal in GOALS:
        values = [v for figures in rounds if (v := goal.reached(figures)) is not None]
        lines.append(f"| {goal.what} | {_cells(goal, values)} |")
    return "\n".join(lines)


def _cells(goal: Goal, values: Sequence[float]) -> str:
    sign = "≤" if goal.at_most else "≥"
    bound = f"{sign} {goal.bound:g} {goal.unit}" if goal.bound else ""
    aim = f"{sign} {goal.aim:g}" if goal.aim is not None else ""
    if not values:
        return f"not measured | {bound} | {aim} | "
    verdict = ""
    if goal.bound:
        verdict = "pass" if goal.is_met(statistics.median(values)) else "**miss**"
    return f"{_spread(values)} | {bound} | {aim} | {verdict}"


def sides(names: Sequence[str], rounds: Sequence[Figures]) -> str:
    """What each side did, as it is."""
    lines = [
        f"| side | {' | '.join(_COLUMNS.values())} |",
        "|---" * (1 + len(_COLUMNS)) + "|",
    ]
    for name in names:
        cells = [_all(rounds, f"{name} {column}") for column in _COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def others(rounds: Sequence[Figures]) -> str:
    """The figures that are no column of `sides`."""
    shown = {
        "machine read": "probe: read bandwidth, B/s",
        "machine flops": "probe: GEMM, FLOP/s",
        "llama-bench decode after the prompt": "llama-bench generation after 256 tokens, tok/s",
        "pagoda greedy again": "pagoda, 32 greedy beside sampled, tok/s",
        "pagoda sampled": "pagoda, 32 at temperature 0.8, top_p 0.95, tok/s",
        "pagoda ttft cold": "pagoda, TTFT of 1,016 tokens, s",
        "pagoda ttft shared prefix": "pagoda, TTFT with 1,000 of them shared, s",
    }
    lines = ["| figure | median (min to max) |", "|---|---|"]
    lines += [f"| {text} | {_all(rounds, key)} |" for key, text in shown.items()]
    return "\n".join(lines)


def _all(rounds: Sequence[Figures], key: str) -> str:
    values = [figures[key] for figures in rounds if key in figures]
    return _spread(values) if values else ""


def _spread(values: Sequence[float]) -> str:
    middle = _number(statistics.median(values))
    if len(values) == 1:
        return f"{middle} (once)"
    return f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    if value >= 1e9:
        return f"{value / 1e9:.3g}e9"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
