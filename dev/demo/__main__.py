"""Command line: `python -m dev.demo up` and `python -m dev.demo down`."""

import argparse
import sys

from dev.cluster import ClusterError, down
from dev.cluster.state import names
from dev.demo import run
from dev.demo.console import Console, StuckError

CLUSTER = "pagoda-demo"


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=run.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("up", "set up a cluster, Pagoda and a toy model, and ask it something"),
        ("down", "remove all of it, also after a crash"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("--cluster", default=CLUSTER, help="name of the cluster (%(default)s)")
    arguments = parser.parse_args()
    try:
        return _up(arguments.cluster) if arguments.command == "up" else _down(arguments.cluster)
    except (ClusterError, StuckError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo` goes on, `make demo-down` cleans up", file=sys.stderr)
        return 130
    return 1


def _up(cluster: str) -> int:
    with Console() as console:
        run.up(console, cluster)
        console.say("done")
    return 0


def _down(cluster: str) -> int:
    if cluster not in names():
        print(f"no cluster {cluster}: nothing to remove")
        return 0
    down(cluster)
    print(f"the cluster {cluster} and all in it is gone; the caches stay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
