"""How long probes take beside a full batch: `python -m tests.bench.probes`. Aim: p99 of 20 ms.

The kubelet's way: a new connection for each. The client of the load shares the cores too.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.runtime.model import Model, model
from tests.bench.shapes import CONFIGS

PATHS = ("/livez", "/readyz", "/metrics")
STREAMS = 32
EVERY_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.probes", description=__doc__)
    parser.add_argument("--shape", choices=CONFIGS, default="llama-135m")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    subject = model(arguments.shape)
    print(f"{arguments.shape}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    print("| beside | path | probes | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|")
    with serving(subject) as port:
        show("nothing", port, arguments.seconds / 4)
        with load(port, subject):
            show(f"{STREAMS} streams", port, arguments.seconds)


@contextmanager
def serving(subject: Model) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "pagoda_runtime", "serve", "--model", str(subject.folder)]
    command += ["--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-num-seqs", str(STREAMS), "--drain-delay", "0", "--log-level", "warning"]
    server = subprocess.Popen(command)
    try:
        while not is_ready(port):
            time.sleep(0.1)
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        server.wait()


def is_ready(port: int) -> bool:
    try:
        return ask(port, "/readyz") == 200
    except OSError:
        return False


def ask(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@contextmanager
def load(port: int, subject: Model) -> Iterator[None]:
    """Streams without end, from a process of its own."""
    source = f"from tests.bench.probes import stream_on; stream_on({port}, {str(subject.folder)!r})"
    client = subprocess.Popen([sys.executable, "-c", source])
    try:
        deadline = time.monotonic() + 60
        while running(port) < STREAMS:
            assert time.monotonic() < deadline, "the batch is not full"
            time.sleep(0.1)
        yield
    finally:
        client.kill()
        client.wait()


def running(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    (line,) = (x for x in page.splitlines() if x.startswith("pagoda_num_requests_running{"))
    return float(line.rsplit(" ", 1)[1])


def stream_on(port: int, folder: str) -> None:
    """Keep STREAMS streamed completions going, for ever."""

    def one() -> None:
        body = {"model": "m", "prompt": [5, 6, 7] * 20, "max_tokens": 400, "ignore_eos": True}
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            sent = json.dumps(body | {"stream": True})
            connection.request("POST", "/v1/completions", sent)
            answer = connection.getresponse()
            while answer.readline():
                pass
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()


def show(beside: str, port: int, seconds: float) -> None:
    """Probe for a while, all paths in turn, and print a row for each."""
    taken: dict[str, list[float]] = {path: [] for path in PATHS}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for path in PATHS:
            begun = time.perf_counter()
            assert ask(port, path) == 200
            taken[path].append(1000 * (time.perf_counter() - begun))
            time.sleep(EVERY_SECONDS)
    for path, times in taken.items():
        times.sort()
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
        print(
            f"| {beside} | {path} | {len(times)} | {statistics.median(times):.1f} | {p99:.1f} | "
            f"{times[-1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
