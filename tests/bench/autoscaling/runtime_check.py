"""The simulator beside our runtime: `python -m tests.bench.autoscaling.runtime_check`.

One replica of the toy model with `--min-step-ms` gets requests, and then a simulated one gets the same
at the same times, with steps as long as the runtime's were: on a busy machine they are longer than the
flag says. What is compared is queueing, refusals and the law, which reads the runtime through its
metrics page.
"""

import argparse
import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, quantiles

import aiohttp
import numpy as np
from pagoda.autoscaling.law import measure
from pagoda.autoscaling.samples import PodHistory, PodSample, PodState
from pagoda.autoscaling.scraping.scraper import TABLES

from dev import toy_model
from tests.bench.autoscaling.engine import Model, Replica, Request
from tests.pagoda_process import free_port

STEP_SECONDS = 0.2
MODEL = Model(
    base=STEP_SECONDS,
    per_request=0.0,
    per_prompt_token=0.0,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    max_queue=16,
)
PROMPT = "Tell me something."  # a byte is a token here
MEAN_OUTPUT = 30
SCRAPE_SECONDS = 5.0


@dataclass
class Seen:
    """What one side did with the requests, and what the law made of its counters."""

    requests: Sequence[Request]
    refused: int
    demand: list[float]
    served: list[float]

    @property
    def done(self) -> list[Request]:
        return [r for r in self.requests if not math.isnan(r.finish)]

    def line(self, name: str) -> str:
        done = self.done
        ttft = sorted(r.ttft for r in done)
        return (
            f"| {name} | {len(done)} | {self.refused} | {fmean(ttft):.2f} | "
            f"{quantiles(ttft, n=10)[-1]:.2f} | {1000 * fmean(r.tpot for r in done):.0f} | "
            f"{fmean(self.served):.1f} | {fmean(self.demand):.1f} |"
        )


def draw(load: float, seconds: float, seed: int) -> list[Request]:
    """Draw a Poisson load in shares of what the replica can do."""
    rng = np.random.default_rng(seed)
    # A request takes its steps of a slot; the prompt's step gives its first token.
    rate = load * MODEL.max_num_seqs / (MEAN_OUTPUT * STEP_SECONDS)
    times = np.cumsum(rng.exponential(1 / rate, size=int(2 * rate * seconds)))
    outputs = rng.integers(MEAN_OUTPUT // 2, 3 * MEAN_OUTPUT // 2 + 1, size=len(times))
    return [
        Request(float(t), len(PROMPT), int(n))
        for t, n in zip(times, outputs, strict=True)
        if t < seconds
    ]


def watch(history: PodHistory, now: float, seen: Seen) -> None:
    signals = measure([history], now=now, spec_replicas=1, target=None)
    if signals.demand_tokens_per_second.value is not None:
        seen.demand.append(signals.demand_tokens_per_second.value)
        seen.served.append(signals.served_tokens_per_second.value or 0.0)


def simulate(requests: Sequence[Request], seconds: float, step: float) -> Seen:
    replica, history = Replica(replace(MODEL, base=step), 0.0), PodHistory(state=PodState.SERVING)
    seen, scrape = Seen(requests, 0, [], []), 0.0
    for request in [*requests, None]:
        while scrape <= (request.arrival if request else seconds):
            history.add(replica.scrape(scrape))
            watch(history, scrape, seen)
            scrape += SCRAPE_SECONDS
        if request and not replica.offer(request, request.arrival):
            seen.refused += 1
    replica.advance(seconds + 60)
    return seen


async def serve(url: str, requests: Sequence[Request], seconds: float) -> Seen:
    seen = Seen(requests, 0, [], [])
    history, start = PodHistory(state=PodState.SERVING), time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as http:

        async def send(request: Request) -> None:
            await asyncio.sleep(start + request.arrival - time.monotonic())
            body = {
                "model": "toy",
                "prompt": PROMPT,
                "max_tokens": request.output,
                "ignore_eos": True,
                "stream": True,
            }
            async with http.post("/v1/completions", json=body) as answer:
                if answer.status == 429:
                    seen.refused += 1
                    return
                answer.raise_for_status()
                async for line in answer.content:
                    if line.startswith(b'data: {"error"'):  # a stream's refusal
                        seen.refused += 1
                        request.first_token = request.finish = math.nan
                        return
                    now = time.monotonic() - start
                    if line.startswith(b"data: {") and math.isnan(request.first_token):
                        request.first_token = now
                    if line.startswith(b"data: "):
                        request.finish = now

        async def scrape() -> None:
            for tick in range(int(seconds / SCRAPE_SECONDS) + 1):
                await asyncio.sleep(start + tick * SCRAPE_SECONDS - time.monotonic())
                async with http.get("/metrics") as page:
                    now = time.monotonic() - start
                    history.add(PodSample(now, **TABLES["pagoda"].read(await page.read())))
                watch(history, now, seen)

        async with asyncio.TaskGroup() as group:
            group.create_task(scrape())
            for request in requests:
                group.create_task(send(request))
    return seen


def start(model: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pagoda_runtime", "serve", "--model", str(model)]
    flags = {
        "--served-model-name": "toy",
        "--port": port,
        "--host": "127.0.0.1",
        "--min-step-ms": STEP_SECONDS * 1000,
        "--max-num-seqs": MODEL.max_num_seqs,
        "--max-num-batched-tokens": MODEL.max_num_batched_tokens,
        "--max-num-queued-reqs": MODEL.max_queue,
        "--log-level": "warning",
    }
    command += [str(part) for pair in flags.items() for part in pair]
    # The same prompt every time must be computed every time, as the simulator does.
    return subprocess.Popen([*command, "--no-enable-prefix-caching"], env=dict(os.environ))


async def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession(url) as http:
        while process.poll() is None:
            try:
                async with http.get("/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the runtime ended with {process.returncode}")


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.autoscaling.runtime_check")
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    print("| side, load | done | refused | TTFT, s | p90 | TPOT, ms | served | demand |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder), toy_model.weights_for(toy_model.successor, 0))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = start(Path(folder), port)
        try:
            await ready(url, process)
            for seed, load in enumerate((0.6, 0.9, 1.5)):
                real = await serve(url, draw(load, args.seconds, seed), args.seconds)
                print(real.line(f"runtime, {load}"), flush=True)
                step = fmean(r.tpot for r in real.done)
                simulated = simulate(draw(load, args.seconds, seed), args.seconds, step)
                print(simulated.line(f"simulator, {load}"), flush=True)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    asyncio.run(main())
