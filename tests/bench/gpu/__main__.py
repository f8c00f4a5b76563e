"""The engine on this machine's GPU, beside its roofline and transformers; prints tables.

Needs torch, triton, numpy, safetensors, tokenizers and, to compare, transformers; no server.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from pagoda_runtime.model.spec import DecoderSpec, parse_spec

from tests.bench.gpu import kernels, sides
from tests.bench.gpu.machine import Machine, floor_seconds, parameters, probe
from tests.bench.gpu.workload import Question, questions
from tests.bench.shapes import CONFIGS, config


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.gpu", description=__doc__)
    parser.add_argument("--shape", choices=CONFIGS, default="qwen3-0.6b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--no-kernels", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no usable GPU")
    spec = parse_spec(config(arguments.shape))
    machine = probe()
    print(
        f"machine: {machine.name}, torch {torch.__version__}; copies at {machine.read / 1e12:.2f} TB/s, "
        f"an 8192³ bf16 product at {machine.flops / 1e12:.0f} TFLOP/s\nmodel: {arguments.shape}, "
        "random weights, bfloat16\n",
        flush=True,
    )
    if not arguments.no_kernels:
        print(kernels.table(machine, spec), flush=True)
    with tempfile.TemporaryDirectory(prefix="pagoda-bench-") as folder:
        model = Path(folder)
        (model / "config.json").write_text(json.dumps(config(arguments.shape)))
        _engine(machine, spec, model, arguments)


def _engine(
    machine: Machine, spec: DecoderSpec, model: Path, arguments: argparse.Namespace
) -> None:
    asked = questions(spec.vocab_size, arguments.requests)
    tokens = sum(question.answer for question in asked)
    floor = floor_seconds(machine, spec, asked, seats=256)
    core, start = sides.engine(model)
    print(f"start to the first token: {start:.1f} s\n\n| | median (min to max) | |\n|---|---|---|")
    sides.answer(core, asked[:8])
    _row("alone, 128 tokens, ms per token", [_single(core) for _ in range(arguments.rounds)], "")
    layers, head = parameters(spec)
    least = (layers + head) * 2 / machine.read * 1e3
    print(f"| … reading the weights takes | {least:.3f} | |")
    prefill = [_prefill(core, layers) for _ in range(arguments.rounds)]
    _row(
        "prefill of 8 prompts of 4,000, TFLOP/s", [p / 1e12 for p in prefill], machine.flops / 1e12
    )
    rates, others = [], []
    for _ in range(arguments.rounds):
        rates.append(tokens / sides.answer(core, asked))
    _row(f"{len(asked)} requests, output tok/s", rates, tokens / floor)
    del core
    torch.cuda.empty_cache()
    if not arguments.no_transformers:
        others = [tokens / sides.transformers_answer(model, asked)]
        _row("… transformers, continuous batching", others, tokens / floor)


def _single(core: sides.EngineCore) -> float:
    """Milliseconds per token of one request, its first not counted."""
    prompt = list(range(100))
    first = sides.answer(core, [Question(prompt, 1)])
    return (sides.answer(core, [Question(prompt, 129)]) - first) / 128 * 1e3


def _prefill(core: sides.EngineCore, layers: int) -> float:
    """FLOP per second of the products over long prompts, attention's not counted."""
    asked = [Question([(7 * i + n) % 9000 for i in range(4000)], 1) for n in range(8)]
    return 2 * layers * 8 * 4000 / sides.answer(core, asked)


def _row(name: str, values: list[float], limit: float | str) -> None:
    middle = statistics.median(values)
    share = "" if isinstance(limit, str) else f"{middle / limit:.0%} of {limit:,.0f}"
    spread = f"{middle:,.4g} ({min(values):,.4g} to {max(values):,.4g})"
    print(f"| {name} | {spread} | {share} |", flush=True)


if __name__ == "__main__":
    main()
