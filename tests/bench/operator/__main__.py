"""What the operator costs, against bare clients that send the same writes; prints tables."""

import argparse
import asyncio
import os

from tests.bench.operator import report, rest, storm, writes
from tests.bench.operator.setting import Setting, setting

SIDES = ("operator", "sdk", "aiohttp")
WRITTEN_TOGETHER = 4  # children of one LLMDeployment


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.operator", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="LLMDeployments at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest-seconds", type=float, default=300)
    parser.add_argument("--singles", type=int, default=200, help="applied one by one")
    parser.add_argument("--workers", type=int, default=16, help="the operator's --workers")
    parser.add_argument(
        "--deployment-controller",
        action="store_true",
        help="let Deployments make ReplicaSets and pods: a load for all sides",
    )
    args = parser.parse_args()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}", flush=True)
    with setting(
        "bench-operator",
        deployment_controller=args.deployment_controller,
        operator_flags={"workers": str(args.workers)},
    ) as place:
        results = _storms(place, args.count, args.rounds, args.workers)
        per_resource = sum(results[0].writes.values()) // args.count
        print(f"\n{report.storms(results)}\n", flush=True)
        if args.rest_seconds:
            print(_rest(place, args.count, per_resource, args.rest_seconds, args.singles))
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


def _storms(place: Setting, count: int, rounds: int, workers: int) -> list[storm.Storm]:
    templates = writes.capture(place)
    path = place.folder / "templates.json"
    writes.save(templates, path)
    results = []
    for number in range(rounds):
        shift = number % len(SIDES)  # none is always the first
        for side in SIDES[shift:] + SIDES[:shift]:
            with place.namespace(f"bench-{number}-{side}") as name:
                if side == "operator":
                    with place.operator() as process:
                        result = storm.operator_storm(place, process, name, count, len(templates))
                else:
                    result = storm.bare_storm(
                        place, side, name, count, path, workers * WRITTEN_TOGETHER
                    )
            results.append(result)
            print(f"round {number} {side}: {result.seconds:.1f} s {result.writes}", flush=True)
    return results


def _rest(place: Setting, count: int, per_resource: int, seconds: float, singles: int) -> str:
    with place.namespace("bench-rest") as name:
        with place.operator() as process:
            storm.operator_storm(place, process, name, count, per_resource=per_resource)
            process.settle()
            seen = rest.at_rest(place, process, seconds)
            times = asyncio.run(rest.single_applies(place, name, singles))
            process.settle()
        primed, written = rest.restart(place)
    return report.rest(count, seen, times, primed, written)


if __name__ == "__main__":
    main()
