"""What HTTP costs: `python -m tests.bench.overhead`. Output tokens per second of streamed requests to
the server, beside the same engine called directly. Aim: at least 0.95 of it.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from pagoda_runtime.config import EngineConfig

from tests.bench.runtime.client import wave
from tests.bench.runtime.model import model
from tests.bench.runtime.servers import KV_GIB, MAX_MODEL_LEN, SEQUENCES, Server, recipe
from tests.bench.runtime.vocabulary import Prompt
from tests.bench.shapes import CONFIGS

STREAMS = (1, SEQUENCES)
PROMPT = 256  # tokens
WARM_ANSWER = 8
AIM = 0.95

# Sends all prompts at once, waits for answers of so many tokens: output tokens per second.
Side = Callable[[Sequence[Prompt], int], float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.overhead", description=__doc__)
    parser.add_argument("--shape", choices=CONFIGS, default="llama-135m")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=128, help="length of the answers")
    arguments = parser.parse_args()
    # A bench that is ended takes its server with it: else that would stand still for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    subject = model(arguments.shape)
    print(f"{arguments.shape}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    with ExitStack() as ends:
        logs = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="pagoda-bench-")))
        server = Server("pagoda", recipe("pagoda", subject), logs / "server.log")
        ends.callback(server.stop)
        server.start()
        sides = {"http": over_http(server), "direct": direct(subject.folder, ends)}
        source = random.Random()

        def prompts(streams: int) -> list[Prompt]:
            """Drawn anew, so that neither side has them in its prefix cache."""
            return [subject.vocabulary.prompt(source, PROMPT) for _ in range(streams)]

        for side in sides.values():
            for streams in STREAMS:
                side(prompts(streams), WARM_ANSWER)
        print("| streams | HTTP, tok/s | direct, tok/s | HTTP / direct | aim |")
        print("|---|---|---|---|---|", flush=True)
        for streams in STREAMS:
            rounds = []
            for number in range(arguments.rounds):
                same = prompts(streams)
                order = sorted(sides, reverse=number % 2 == 0)  # none is always the first
                rounds.append({name: sides[name](same, arguments.tokens) for name in order})
            print(row(streams, rounds), flush=True)
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


def over_http(server: Server) -> Side:
    """Streamed completions; the client shares the cores. The server runs only meanwhile."""

    def run(prompts: Sequence[Prompt], tokens: int) -> float:
        with server.awake():
            return wave(server, prompts, tokens).rate

    return run


def direct(folder: Path, ends: ExitStack) -> Side:
    """The engine in a process of its own, as the server has it, without a server around."""
    config = EngineConfig(  # the flags of `recipe("pagoda", …)`
        str(folder),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=SEQUENCES,
        kv_cache_memory_bytes=KV_GIB << 30,
    )
    process = ends.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.direct", msgspec.json.encode(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    ends.callback(process.kill)

    def run(prompts: Sequence[Prompt], tokens: int) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump([[prompt.ids for prompt in prompts], tokens], process.stdin)
        process.stdin.write("\n")
        process.stdin.flush()
        return len(prompts) * tokens / float(process.stdout.readline())

    return run


def row(streams: int, rounds: Sequence[dict[str, float]]) -> str:
    """Medians of the rounds; the ratio is taken in each, with its smallest and largest value."""
    http, engine = (statistics.median(r[side] for r in rounds) for side in ("http", "direct"))
    ratios = [r["http"] / r["direct"] for r in rounds]
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return f"| {streams} | {http:.1f} | {engine:.1f} | {spread} | ≥ {AIM} |"


if __name__ == "__main__":
    main()
