"""Command line: `python -m dev.cluster --help`."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dev.cluster import api, build, processes
from dev.cluster import state as states
from dev.cluster.errors import ClusterError
from dev.cluster.state import State


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    own, passed_on = _split(list(sys.argv[1:] if arguments is None else arguments))
    parsed = _parser().parse_args(own)
    parsed.passed_on = passed_on
    verb: Callable[[argparse.Namespace], int] = parsed.verb
    try:
        return verb(parsed)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _build(parsed: argparse.Namespace) -> int:
    for name, path in build.build(tuple(parsed.component)).items():
        print(f"{name}\t{path}")
    return 0


def _up(parsed: argparse.Namespace) -> int:
    started = time.monotonic()
    cluster = api.up(
        parsed.name,
        node=parsed.node,
        scheduler=parsed.scheduler,
        apiserver_args=parsed.apiserver_arg,
        controller_manager_args=parsed.controller_manager_arg,
    )
    print(f"cluster {cluster.name} is up after {time.monotonic() - started:.1f} s")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(parsed: argparse.Namespace) -> int:
    for name in states.names() if parsed.all else [parsed.name]:
        api.down(name)
        print(f"cluster {name} is gone")
    return 0


def _status(_: argparse.Namespace) -> int:
    for name in states.names():
        state = State.load(name)
        if state is None:
            print(f"{name}: left over, `down --name {name}` removes it")
            continue
        kind = "control plane and a node" if state.node else "control plane"
        condition = "up" if state.healthy else "starting" if state.starting else "broken"
        print(f"{name}: {condition} ({kind}), {state.folder}")
        for record in processes.records(state.folder):
            alive = "runs" if record.identity.alive else "DEAD"
            print(f"  {record.name:<24} {alive}  pid {record.identity.pid}  {record.log}")
    return 0


def _kubeconfig(parsed: argparse.Namespace) -> int:
    print(api.attach(parsed.name).kubeconfig)
    return 0


def _load_image(parsed: argparse.Namespace) -> int:
    cluster = api.attach(parsed.name)
    for path in parsed.file:
        for image in cluster.load_image(path):
            print(image)
    return 0


def _kubectl(parsed: argparse.Namespace) -> int:
    kubeconfig = api.attach(parsed.name).kubeconfig
    command = [str(build.binary("kubectl")), f"--kubeconfig={kubeconfig}", *parsed.passed_on]
    os.execv(command[0], command)


def _bin(parsed: argparse.Namespace) -> int:
    print(build.binary(parsed.component))
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those of kubectl, which argparse would take for its own (`-n`)."""
    ours = len(arguments)
    if arguments[:1] == ["kubectl"] and arguments[1:] not in (["-h"], ["--help"]):
        ours = 3 if arguments[1:2] == ["--name"] else 1
    return arguments[:ours], arguments[ours:]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dev.cluster", description="Real Kubernetes on this machine."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], help: str, *, named: bool = True
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(verb=run)
        if named:
            added.add_argument("--name", default="dev", help="which cluster (default: dev)")
        return added

    command = verb("build", _build, "build binaries that are missing", named=False)
    command.add_argument("component", nargs="*", help="default: all of them")

    command = verb("up", _up, "start a cluster")
    command.add_argument("--node", action="store_true", help="with a node that runs pods")
    command.add_argument(
        "--scheduler", action=argparse.BooleanOptionalAction, help="default: where there is a node"
    )
    for component in ("apiserver", "controller-manager"):
        command.add_argument(
            f"--{component}-arg",
            action="append",
            default=[],
            metavar="--FLAG=VALUE",
            help=f"one more flag for the {component}; may be repeated",
        )

    command = verb("down", _down, "stop a cluster and remove all it made")
    command.add_argument("--all", action="store_true", help="every cluster")

    verb("status", _status, "list clusters and their processes", named=False)
    verb("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")

    command = verb("load-image", _load_image, "load image archives (OCI or docker) into the node")
    command.add_argument("file", nargs="+", type=Path)

    verb("kubectl", _kubectl, "run kubectl as administrator: all other arguments are its own")

    command = verb("bin", _bin, "print the path of a binary, built if missing", named=False)
    command.add_argument("component", choices=build.COMPONENTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
