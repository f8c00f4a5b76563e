"""Command line: `python -m dev.images build [operator|runtime]…` prints the archives' paths."""

import argparse
import sys

from dev.cluster.errors import ClusterError
from dev.images import TARGETS, build, reference


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("build", "build what changed and print the path of each archive"),
        ("reference", "print the names of the images that the sources give now"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET")
    arguments = parser.parse_args()
    action = build if arguments.command == "build" else reference
    try:
        for target in arguments.targets or TARGETS:
            print(action(target))
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
