"""Command-line flags of the offline commands."""

import argparse
from collections.abc import Callable

from pagoda.commands import diff, render


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    settings: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `render` and `diff`.

    Args:
        commands: where to.
        settings: adds the flags that shape the rendering, those of the operator.
    """
    printing = commands.add_parser("render", help="print the objects that the operator would apply")
    comparing = commands.add_parser(
        "diff",
        help="show what a changed LLMDeployment would change",
        description="Exits with 0 if nothing changes, 1 if something does, 2 on an error.",
    )
    for parser in (printing, comparing):
        parser.add_argument(
            "-f",
            "--filename",
            dest="file",
            required=True,
            help="file of LLMDeployments; - is stdin",
        )
        parser.add_argument(
            "-n", "--namespace", default="default", help="namespace of those that name none"
        )
        settings(parser)
    comparing.add_argument(
        "--from",
        dest="before",
        required=True,
        metavar="FILE",
        help="what to compare with: an LLMDeployment, or live objects as kubectl get -o yaml prints",
    )
    printing.set_defaults(run=render.run)
    comparing.set_defaults(run=diff.run)
