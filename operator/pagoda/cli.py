"""Command line: `pagoda operator`, `metrics-server`, `fetch`, `render`, `diff` and `crd`."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from pagoda.api.crd import custom_resource_definition, to_yaml
from pagoda.autoscaling import law
from pagoda.autoscaling.samples import stale_seconds
from pagoda.commands import flags
from pagoda.engines import ENGINES
from pagoda.fetch.plan import repository
from pagoda.render.effective import Settings

HUB = "https://huggingface.co"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pagoda", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True)

    crd = commands.add_parser("crd", help="print the CustomResourceDefinition")
    crd.add_argument("--check", type=Path, metavar="FILE", help="fail if FILE differs from it")
    crd.set_defaults(run=_crd)

    operator = commands.add_parser(
        "operator",
        help="run the operator",
        description="Runs the operator. Every flag has an environment variable PAGODA_…",
    )
    _operator_flags(operator)
    operator.set_defaults(run=_operator)

    metrics = commands.add_parser(
        "metrics-server",
        help="run the metrics API server",
        description="Serves custom.metrics.k8s.io. Every flag has an environment variable PAGODA_…",
    )
    _metrics_server_flags(metrics)
    metrics.set_defaults(run=_metrics_server)

    fetch = commands.add_parser(
        "fetch",
        help="download a model from a Hugging Face hub",
        description="Downloads a model. HF_TOKEN is the hub's token, HF_ENDPOINT its address.",
    )
    _fetch_flags(fetch)
    fetch.set_defaults(run=_fetch)

    flags.add(commands, _rendering_flags)
    return parser


def _operator_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        action="append",
        default=[name for name in _env("NAMESPACE", "").split(",") if name],
        help="watch only this namespace (repeatable); default: the whole cluster",
    )
    parser.add_argument(
        "--lease-namespace",
        default=_env("LEASE_NAMESPACE", _own_namespace()),
        help="namespace of the leader election's Lease; default: the pod's own",
    )
    parser.add_argument("--lease-name", default=_env("LEASE_NAME", "pagoda-operator"))
    _rendering_flags(parser)
    parser.add_argument("--workers", type=int, default=int(_env("WORKERS", "16")))
    parser.add_argument("--health-port", type=int, default=int(_env("HEALTH_PORT", "8080")))
    parser.add_argument("--metrics-port", type=int, default=int(_env("METRICS_PORT", "9090")))
    for flag, default, text in (
        ("relist-seconds", "600", "how often everything is listed anew"),
        ("signals-seconds", "15", "how often the metrics server is asked"),
        ("inactivity-seconds", "75", "a watch that is silent for so long is opened anew"),
        ("dead-watch-seconds", "180", "a watch that misses changes for so long fails /healthz"),
        ("shutdown-seconds", "20", "how long running passes may take to end"),
        ("unschedulable-seconds", "10", "a roll-out without room for an extra pod waits so long"),
        ("transient-cap-seconds", "30", "longest delay between tries in an outage"),
        ("terminal-cap-seconds", "300", "longest delay between tries when a person must act"),
        ("lease-duration-seconds", "10", "a standby takes over after so long"),
        ("lease-renew-deadline-seconds", "7", "the leader writes only this long after a renewal"),
        ("lease-retry-seconds", "1.5", "time between tries for the Lease"),
    ):
        _setting(parser, flag, default, text, float, "S")
    _log_level(parser)


def _setting(
    parser: argparse.ArgumentParser,
    flag: str,
    default: str,
    text: str,
    kind: type,
    metavar: str | None,
) -> None:
    """Add a flag whose default an environment variable may set."""
    parser.add_argument(
        f"--{flag}",
        type=kind,
        default=kind(_env(flag.upper().replace("-", "_"), default)),
        metavar=metavar,
        help=text + " (default: %(default)s)",
    )


def _log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        default=_env("LOG_LEVEL", "info"),
        choices=["debug", "info", "warning", "error"],
    )


def _metrics_server_flags(parser: argparse.ArgumentParser) -> None:
    for flag, default, text in (
        ("service", "pagoda-metrics-server", "Service that leads to this server"),
        ("service-namespace", _own_namespace(), "namespace of the Service and the Secret"),
        ("secret", "pagoda-metrics-server", "Secret that holds the certificates"),
        ("owner", "pagoda-metrics-server", "ClusterRole that the APIService goes with"),
        ("host", "", "address to listen on; none: all"),
    ):
        _setting(parser, flag, default, text, str, None)
    for flag, default, text in (
        ("service-port", "443", "the Service's port"),
        ("port", "8443", "port to listen on"),
        ("metrics-port", "9090", "port of this server's own metrics"),
        ("scrape-concurrency", "64", "engine pods asked at the same time"),
    ):
        _setting(parser, flag, default, text, int, "N")
    for flag, default, text in (
        ("scrape-seconds", "5", "how often an engine pod is asked"),
        ("scrape-timeout-seconds", "2", "how long it may take to answer"),
        ("window-seconds", f"{law.DEFAULT.window:g}", "what rates are taken over"),
        (
            "short-window-seconds",
            f"{law.DEFAULT.short_window:g}",
            "after how long a steep rise is believed",
        ),
        ("certificate-seconds", "7776000", "life of a serving certificate"),
        ("settle-seconds", "300", "a new authority is published so long before it is used"),
        ("drain-seconds", "5", "a stopping server still answers so long"),
    ):
        _setting(parser, flag, default, text, float, "S")
    _log_level(parser)


def _rendering_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine-image",
        action="append",
        type=_engine_image,
        default=[_engine_image(item) for item in _env("ENGINE_IMAGE", "").split(",") if item],
        metavar="ENGINE=IMAGE",
        help="default image of an engine, or of an engine on one accelerator as in vllm-cpu "
        "(repeatable)",
    )
    parser.add_argument(
        "--fetch-image",
        default=_env("FETCH_IMAGE", Settings.fetch_image),
        metavar="IMAGE",
        help="image whose `pagoda fetch` downloads models (default: %(default)s)",
    )
    parser.add_argument(
        "--hub-endpoint",
        default=_env("HUB_ENDPOINT", "") or None,
        metavar="URL",
        help="mirror of the Hugging Face hub for hf:// models",
    )


def _operator(args: argparse.Namespace) -> int:
    # Imported here so that `pagoda crd` needs neither kopf nor the Kubernetes client.
    from pagoda.controller import app
    from pagoda.kube.errors import SettingsError
    from pagoda.kube.lease import LeaseTimes
    from pagoda.observability import logs

    logs.configure(args.log_level)
    try:
        lease = LeaseTimes(
            duration=args.lease_duration_seconds,
            renew_deadline=args.lease_renew_deadline_seconds,
            retry=args.lease_retry_seconds,
        )
    except ValueError as error:
        print(f"pagoda: {error}", file=sys.stderr)
        return 2
    options = app.Options(
        identity=os.environ.get("POD_NAME") or f"{socket.gethostname()}_{os.getpid()}",
        lease_namespace=args.lease_namespace,
        lease_name=args.lease_name,
        namespaces=tuple(filter(None, args.namespace)),
        rendering=Settings(
            images=dict(args.engine_image),
            fetch_image=args.fetch_image,
            hub_endpoint=args.hub_endpoint,
        ),
        workers=args.workers,
        health_port=args.health_port,
        metrics_port=args.metrics_port,
        relist_seconds=args.relist_seconds,
        signals_seconds=args.signals_seconds,
        inactivity_seconds=args.inactivity_seconds,
        dead_watch_seconds=args.dead_watch_seconds,
        shutdown_seconds=args.shutdown_seconds,
        unschedulable_seconds=args.unschedulable_seconds,
        transient_cap_seconds=args.transient_cap_seconds,
        terminal_cap_seconds=args.terminal_cap_seconds,
        lease=lease,
    )
    try:
        return app.main(options)
    except SettingsError as error:
        print(f"pagoda: {error}", file=sys.stderr)
        return 2


def _metrics_server(args: argparse.Namespace) -> int:
    try:
        constants = law.Constants(
            window=args.window_seconds,
            short_window=args.short_window_seconds,
            stale_seconds=stale_seconds(args.scrape_seconds),
        )
    except ValueError as error:
        print(f"pagoda: {error}", file=sys.stderr)
        return 2

    from datetime import timedelta

    from pagoda.autoscaling.scraping.scraper import Pace
    from pagoda.autoscaling.server import app
    from pagoda.autoscaling.server.certificates import Rules
    from pagoda.autoscaling.server.registration import Service
    from pagoda.kube.errors import SettingsError
    from pagoda.observability import logs

    logs.configure(args.log_level)
    options = app.Options(
        service=Service(args.service_namespace, args.service, args.service_port),
        secret=args.secret,
        owner=args.owner,
        rules=Rules(
            hosts=(f"{args.service}.{args.service_namespace}.svc",),
            life=timedelta(seconds=args.certificate_seconds),
            settle=timedelta(seconds=args.settle_seconds),
        ),
        host=args.host or None,
        port=args.port,
        metrics_port=args.metrics_port,
        drain_seconds=args.drain_seconds,
        pace=Pace(args.scrape_seconds, args.scrape_timeout_seconds, args.scrape_concurrency),
        constants=constants,
    )
    try:
        return app.main(options)
    except SettingsError as error:
        print(f"pagoda: {error}", file=sys.stderr)
        return 2


def _fetch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", required=True, type=_hub_uri, metavar="hf://ORG/NAME")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    parser.add_argument("--target", required=True, type=Path, help="folder for the model's files")
    parser.add_argument(
        "--progress-port", type=int, default=8300, help="port of /progress (default: %(default)s)"
    )
    parser.add_argument(
        "--termination-log", type=Path, metavar="FILE", help="where the reason of a failure goes"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=4,
        metavar="N",
        help="files at a time (default: %(default)s)",
    )
    for flag, default, text in (
        ("deadline-seconds", 1800, "give up when nothing more has come for so long"),
        ("read-seconds", 60, "a connection that brings nothing for so long is opened anew"),
        ("retry-seconds", 1, "first delay between tries; it doubles"),
        ("retry-cap-seconds", 30, "longest delay between tries"),
    ):
        parser.add_argument(
            f"--{flag}",
            type=float,
            default=default,
            metavar="S",
            help=text + " (default: %(default)s)",
        )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def _fetch(args: argparse.Namespace) -> int:
    from pagoda.fetch import app
    from pagoda.fetch.download import RetryTimes
    from pagoda.observability import logs

    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB
    if not endpoint.startswith(("https://", "http://")):
        print("pagoda: HF_ENDPOINT is not an http(s) address", file=sys.stderr)
        return 2
    logs.configure(args.log_level)
    return app.main(
        app.Options(
            uri=args.uri,
            revision=args.revision or "main",
            target=args.target,
            endpoint=endpoint,
            # A Secret made from a file often ends in a new line.
            token=os.environ.get("HF_TOKEN", "").strip() or None,
            progress_port=args.progress_port,
            termination_log=args.termination_log,
            parallel=args.parallel,
            read_seconds=args.read_seconds,
            retry=RetryTimes(args.retry_seconds, args.retry_cap_seconds, args.deadline_seconds),
        )
    )


def _hub_uri(text: str) -> str:
    try:
        repository(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _crd(args: argparse.Namespace) -> int:
    text = to_yaml(custom_resource_definition())
    if args.check is None:
        sys.stdout.write(text)
        return 0
    if args.check.read_text() == text:
        return 0
    print(f"{args.check} is out of date: run `make generate`", file=sys.stderr)
    return 1


def _engine_image(text: str) -> tuple[str, str]:
    engine, separator, image = text.partition("=")
    known = [*ENGINES, *(f"{p.name}-{kind}" for p in ENGINES.values() for kind in p.images)]
    if not separator or not image or engine not in known:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ENGINE=IMAGE with ENGINE one of {', '.join(known)}"
        )
    return engine, image


def _env(name: str, default: str) -> str:
    return os.environ.get(f"PAGODA_{name}", default)


def _own_namespace() -> str:
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"
