"""The demand law beside other policies, in a simulator: `python -m tests.bench.autoscaling --help`."""

import argparse
import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.bench.autoscaling import reaction, report
from tests.bench.autoscaling.compare import Row, jobs, run_all
from tests.bench.autoscaling.verdict import losses

# Constants were chosen on the first four; what is reported comes from the others.
TUNING_SEEDS = range(4)
REPORT_SEEDS = range(100, 108)
REACTION_SEEDS = range(100, 120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.autoscaling")
    parser.add_argument(
        "--tuning", action="store_true", help="the loads and seeds constants were chosen on"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path, help="draw into this file (needs matplotlib)")
    parser.add_argument("--rows", type=Path, help="keep the runs' figures in this file")
    parser.add_argument(
        "--from-rows", type=Path, help="report from such a file and simulate nothing"
    )
    args = parser.parse_args()
    if args.from_rows:
        rows = [Row(**row) for row in json.loads(args.from_rows.read_text())]
    elif args.tuning:
        rows = run_all(jobs(TUNING_SEEDS, held_out=False), args.processes)
    else:
        rows = run_all(jobs(REPORT_SEEDS), args.processes)
    if args.rows:
        args.rows.write_text(json.dumps([asdict(r) for r in rows]))
    print(report.table(rows))
    lost = losses(rows)
    print(f"\nDominated at the default by: {len(lost)}\n{report.loss_lines(lost)}")
    print(f"\nFrom a step to a higher count, median and longest:\n{reaction.table(REACTION_SEEDS)}")
    print("\nRefused for good, % of all requests, mean over all loads:")
    refused, runs = Counter[str](), Counter[str]()
    for row in rows:
        refused[row.policy] += row.refused
        runs[row.policy] += 1
    for policy, total in refused.items():
        print(f"- {policy}: {100 * total / runs[policy]:.2f}")
    if args.plot:
        report.plot(rows, args.plot)


if __name__ == "__main__":
    main()
