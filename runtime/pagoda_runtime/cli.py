"""The command line: `pagoda-runtime serve --model DIR`. Flags are spelled as vLLM's where vLLM
has them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pagoda_runtime import __doc__ as package_doc
from pagoda_runtime.config import CPU_SIZES, GPU_SIZES, ConfigError, EngineConfig, ServeConfig
from pagoda_runtime.devices import has_gpu


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `pagoda-runtime`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        config = to_config(arguments)
    except ConfigError as error:
        parser.error(str(error))
    from pagoda_runtime.server.lifecycle import run  # After the flags: --help needs no web server.

    return run(config)


def to_config(arguments: argparse.Namespace) -> ServeConfig:
    """Parsed flags to configuration; ConfigError if they contradict each other."""
    if os.environ.get("VLLM_API_KEY"):
        # Who comes from vLLM with it believes to be protected.
        raise ConfigError("VLLM_API_KEY is not read here: put the keys in a file, --api-key-file")
    given = {name: getattr(arguments, name) for name in EngineConfig.__dataclass_fields__}
    on_gpu = arguments.execution == "cuda" or (arguments.execution == "auto" and has_gpu())
    defaults = GPU_SIZES if on_gpu else CPU_SIZES
    engine = EngineConfig(**given | {n: v for n, v in defaults.items() if given[n] is None})
    return ServeConfig(
        engine=engine,
        served_model_names=tuple(arguments.served_model_name),
        host=arguments.host,
        port=arguments.port,
        drain_delay=arguments.drain_delay,
        shutdown_timeout=arguments.shutdown_timeout,
        step_timeout=arguments.step_timeout,
        pooling_type=arguments.pooling_type,
        max_body_bytes=arguments.max_body_bytes,
        body_timeout=arguments.body_timeout,
        termination_log=arguments.termination_log,
        api_key_file=arguments.api_key_file,
        metrics_port=arguments.metrics_port,
        metrics_compat=arguments.metrics_compat,
        max_connections=arguments.max_connections,
    )


def _sized(text: str, name: str) -> str:
    return f"{text}; default: {CPU_SIZES[name]}, on a GPU {GPU_SIZES[name]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pagoda-runtime", description=package_doc, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve one model over the OpenAI API",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    engine, server = EngineConfig(model=""), ServeConfig(EngineConfig(model=""))

    model = serve.add_argument_group("model")
    model.add_argument(
        "--model", required=True, metavar="DIR", help="model directory, Hugging Face layout"
    )
    model.add_argument(
        "--served-model-name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names the API answers to; the first is reported",
    )
    model.add_argument(
        "--load-format", choices=("auto", "safetensors", "dummy"), default=engine.load_format
    )
    model.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default=engine.dtype)
    model.add_argument(
        "--quantization",
        choices=("int8", "fp8"),
        help="weights and activations in 8 bits (W8A8): int8 on CPUs, fp8 on GPUs",
    )
    model.add_argument(
        "--execution",
        choices=("auto", "cuda", "native", "torch"),
        default=engine.execution,
        help="what computes the model; auto takes the fastest that runs here",
    )
    model.add_argument(
        "--seed",
        type=int,
        default=engine.seed,
        help="of requests without one, and of dummy weights",
    )

    model.add_argument(
        "--pooling-type",
        choices=("last", "mean", "cls"),
        default=server.pooling_type,
        help="which hidden states of a text make its embedding",
    )

    model.add_argument(
        "--tensor-parallel-size",
        "-tp",
        type=int,
        default=engine.tensor_parallel_size,
        metavar="N",
        help="divide the model between N GPUs of this machine, each with a process of its own",
    )

    sizes = serve.add_argument_group("engine")
    sizes.add_argument(
        "--max-model-len", type=int, metavar="TOKENS", help="context length; default: the model's"
    )
    sizes.add_argument(
        "--max-num-seqs",
        type=int,
        metavar="REQUESTS",
        help=_sized("requests in one step", "max_num_seqs"),
    )
    sizes.add_argument(
        "--max-num-batched-tokens",
        type=int,
        metavar="TOKENS",
        help=_sized("tokens in one step", "max_num_batched_tokens"),
    )
    sizes.add_argument(
        "--max-num-queued-reqs",
        type=int,
        metavar="REQUESTS",
        help="more than this many waiting are refused with 429; default: four times --max-num-seqs",
    )
    sizes.add_argument(
        "--max-num-queued-tokens",
        type=int,
        metavar="TOKENS",
        help="the same for prompt tokens waiting to be computed; default: no bound",
    )
    sizes.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=engine.enable_prefix_caching,
        help="keep KV blocks of finished requests for prompts that begin the same way",
    )
    sizes.add_argument(
        "--block-size", type=int, default=engine.block_size, help="tokens in a KV block"
    )
    sizes.add_argument(
        "--kv-cache-memory-bytes",
        type=int,
        metavar="BYTES",
        help="default: what --max-num-seqs full-length requests need, at most what the memory limit "
        "leaves beside weights and activations; on a GPU what --gpu-memory-utilization leaves",
    )
    sizes.add_argument(
        "--gpu-memory-utilization",
        type=float,
        default=engine.gpu_memory_utilization,
        metavar="SHARE",
        help="of a GPU's memory, for weights, activations and the KV cache",
    )
    sizes.add_argument(
        "--min-step-ms",
        type=float,
        default=engine.min_step_ms,
        help="for tests: no engine step is faster than this",
    )

    http = serve.add_argument_group("server")
    http.add_argument("--host", default=server.host)
    http.add_argument(
        "--port", type=int, default=server.port, help="0 takes a free one and logs it"
    )
    http.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default=engine.log_level
    )
    http.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that clients must send as `Authorization: Bearer KEY`, one a line; it is read "
        "again when it changes. Probes need none. Default: no key is asked for",
    )
    http.add_argument("--api-key", nargs="*", action=_SecretInArguments, help=argparse.SUPPRESS)
    http.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="serve /metrics there, without a key, and no longer on --port; 0 takes a free one",
    )
    http.add_argument(
        "--metrics-compat",
        choices=("vllm",),
        help="every metric that vLLM has too also under vLLM's name, for its dashboards",
    )
    http.add_argument(
        "--max-connections",
        type=int,
        default=server.max_connections,
        help="clients above that get 503 and are disconnected; probes are still answered",
    )
    http.add_argument(
        "--drain-delay",
        type=float,
        default=server.drain_delay,
        help="seconds after SIGTERM in which new requests are taken while readiness already fails",
    )
    http.add_argument(
        "--shutdown-timeout",
        type=float,
        default=server.shutdown_timeout,
        help="seconds after the drain delay for running requests to finish; then they are aborted",
    )
    http.add_argument(
        "--step-timeout",
        type=float,
        default=server.step_timeout,
        help="seconds a step may take before /livez fails",
    )
    http.add_argument(
        "--max-body-bytes",
        type=int,
        default=server.max_body_bytes,
        metavar="BYTES",
        help="longer requests are refused with 413",
    )
    http.add_argument(
        "--body-timeout",
        type=float,
        default=server.body_timeout,
        help="seconds a client may take to send a request; then it gets 408",
    )
    http.add_argument(
        "--termination-log",
        type=Path,
        default=server.termination_log,
        help="why the process failed, if this file exists",
    )
    return parser


class _SecretInArguments(argparse.Action):
    """Refuses vLLM's --api-key without repeating its value: arguments show in process lists."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error("--api-key would show the key to everybody: put it in a file, --api-key-file")


if __name__ == "__main__":
    sys.exit(main())
