"""Tables in Markdown and plots."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from tests.bench.autoscaling.compare import BY_NAME, POLICIES, Row
from tests.bench.autoscaling.verdict import Loss, by_cell, default_of

COLOURS = {
    "demand, given": "#d62728",
    "demand, learned": "#ff9896",
    "served tokens/s": "#1f77b4",
    "queue length": "#2ca02c",
    "running requests": "#9467bd",
}


def table(rows: Iterable[Row]) -> str:
    """Give attainment in percent and mean replicas of each policy's default, with their spread."""
    lines = [
        "| load | start, s | " + " | ".join(POLICIES) + " |",
        "|---|---|" + "---|" * len(POLICIES),
    ]
    for (scenario, delay), points in by_cell(rows).items():
        cells = [_cell(points[name, default_of(name)], scenario) for name in POLICIES]
        lines.append(f"| {scenario} | {delay:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], scenario: str) -> str:
    slo = [100 * r.attainment for r in rows]
    replicas = [r.replica_seconds / BY_NAME[scenario].duration for r in rows]
    spread = stdev(slo) if len(slo) > 1 else 0.0
    return f"{fmean(slo):.1f} ±{spread:.1f} at {fmean(replicas):.2f}"


def loss_lines(losses: Iterable[Loss]) -> str:
    return "\n".join(
        f"- {scenario}, start {delay:.0f} s: {policy} at {setting:g} has "
        f"{_cell(loss.theirs, scenario)}, ours {_cell(loss.ours, scenario)}"
        for loss in losses
        for (scenario, delay), (policy, setting) in [(loss.cell, loss.point)]
    )


def plot(rows: Iterable[Row], path: Path) -> None:
    """Draw attainment over mean replicas, one panel per load and start delay."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = by_cell(rows)
    scenarios = list(dict.fromkeys(s for s, _ in cells))
    delays = list(dict.fromkeys(d for _, d in cells))
    figure, axes = plt.subplots(
        len(scenarios), len(delays), figsize=(10, 2.1 * len(scenarios)), squeeze=False
    )
    for (scenario, delay), points in cells.items():
        axis = axes[scenarios.index(scenario)][delays.index(delay)]
        for policy in POLICIES:
            line = sorted(
                (
                    fmean(r.replica_seconds for r in found) / BY_NAME[scenario].duration,
                    100 * fmean(r.attainment for r in found),
                    setting == default_of(policy),
                )
                for (name, setting), found in points.items()
                if name == policy
            )
            xs, ys = [x for x, _, _ in line], [y for _, y, _ in line]
            axis.plot(xs, ys, "-", color=COLOURS[policy], lw=1, label=policy)
            sizes = [40 if default else 12 for _, _, default in line]
            axis.scatter(xs, ys, s=sizes, color=COLOURS[policy])
        axis.set_title(f"{scenario}, start {delay:.0f} s", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=8)
    figure.supxlabel("mean replicas (lower is cheaper)", fontsize=9)
    figure.supylabel("requests within the SLO, %", fontsize=9)
    figure.tight_layout(rect=(0.02, 0.01, 1, 0.985))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
