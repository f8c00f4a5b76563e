"""`make bench-operator`."""

import argparse

from tests.bench.operator import storm, writes
from tests.bench.operator.setting import setting

SIDES = ("operator", "sdk", "aiohttp")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.operator", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--deployment-controller", action="store_true")
    args = parser.parse_args()
    sides = args.sides.split(",")
    with setting(
        "bench-operator", deployment_controller=args.deployment_controller, operator_flags={}
    ) as place:
        templates = writes.capture(place)
        path = place.folder / "templates.json"
        writes.save(templates, path)
        print(len(templates), [f"{t.method} {t.uri}" for t in templates], flush=True)
        for number in range(args.rounds):
            shift = number % len(sides)
            for side in sides[shift:] + sides[:shift]:
                with place.namespace(f"bench-{number}-{side}") as name:
                    if side == "operator":
                        with place.operator() as process:
                            result = storm.operator_storm(
                                place, process, name, args.count, len(templates)
                            )
                    else:
                        result = storm.bare_storm(
                            place, side, name, args.count, path, args.concurrency
                        )
                print(
                    f"{side}: {result.rate:.1f}/s, client CPU {result.cpu:.1f} s, server CPU {result.server_cpu:.1f} s, "
                    f"{sum(result.writes.values())} writes, {result.dry_runs} dry runs, {result.failed} failed, {result.seconds:.1f}s children {result.children_seconds:.1f}s peak {result.peak_mib}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
