"""The tables."""

import statistics
from collections.abc import Sequence

from tests.bench.operator.rest import Rest
from tests.bench.operator.storm import Storm


def storms(results: Sequence[Storm]) -> str:
    """Median and spread of each side, and the operator's ratio to it."""
    by_side: dict[str, list[Storm]] = {}
    for result in results:
        by_side.setdefault(result.side, []).append(result)
    ours = statistics.median(r.seconds for r in by_side.get("operator", results))
    lines = [
        "| side | seconds (min to max) | resources/s | operator / side | client CPU s "
        "| API server CPU s | writes | dry runs | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side, of_side in by_side.items():
        seconds = [r.seconds for r in of_side]
        middle = statistics.median(seconds)
        last = of_side[-1]
        lines.append(
            f"| {side} | {middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f}) "
            f"| {last.count / middle:.1f} | {ours / middle:.2f} "
            f"| {statistics.median(r.cpu for r in of_side):.1f} "
            f"| {statistics.median(r.server_cpu for r in of_side):.1f} "
            f"| {sum(last.writes.values())} | {last.dry_runs} | {last.failed} |"
        )
    return "\n".join(lines)


def rest(count: int, seen: Rest, singles: Sequence[float], primed: float, writes: int) -> str:
    """What was seen with `count` LLMDeployments at rest."""
    lines = [f"| with {count} LLMDeployments | measured | bound |", "|---|---|---|"]
    lines += [
        f"| writes in {seen.seconds:.0f} s at rest | {seen.writes} | 0 |",
        f"| CPU at rest, of a core | {seen.cpu_percent:.2f} % | 1 % |",
        f"| resident memory | {seen.rss_mib:.0f} MiB | 200 MiB |",
        f"| restart: primed after | {primed:.1f} s | 10 s |",
        f"| restart: writes | {writes} | 0 |",
    ]
    if singles:
        last = singles[min(len(singles) - 1, int(0.99 * len(singles)))]
        lines.append(
            f"| one applied, all children there: p50, p99 of {len(singles)} "
            f"| {1000 * statistics.median(singles):.0f}, {1000 * last:.0f} ms | 300 ms (p99) |"
        )
    return "\n".join(lines)
