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

from tests.bench.gpu import kernels, sides, start
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
    with tempfile.TemporaryDirectory(prefix="pagoda-bench-") as folder:
        model = Path(folder)
        (model / "config.json").write_text(json.dumps(config(arguments.shape)))
        # First of all: what this process allocates on the GPU would be missing.
        cold, warm = start.seconds(model)
        print(
            f"start to the first token: {cold:.1f} s, kernels in the cache {warm:.1f} s", flush=True
        )
        _measure(spec, model, arguments)


def _measure(spec: DecoderSpec, model: Path, arguments: argparse.Namespace) -> None:
    machine = probe()
    print(
        f"machine: {machine.name}, torch {torch.__version__}; copies at {machine.read / 1e12:.2f} TB/s, "
        f"an 8192³ bf16 product at {machine.flops / 1e12:.0f} TFLOP/s\nmodel: {arguments.shape}, "
        "random weights, bfloat16\n",
        flush=True,
    )
    if not arguments.no_kernels:
        print(kernels.table(machine, spec), flush=True)
    _engine(machine, spec, model, arguments)


def _engine(
    machine: Machine, spec: DecoderSpec, model: Path, arguments: argparse.Namespace
) -> None:
    asked = questions(spec.vocab_size, arguments.requests)
    tokens = sum(question.answer for question in asked)
    floor = floor_seconds(machine, spec, asked, seats=256)
    core = sides.engine(model)
    print("| | median (min to max) | |\n|---|---|---|")
    sides.answer(core, asked[:8])
    _row("alone, 128 tokens, ms per token", [_single(core) for _ in range(arguments.rounds)], "")
    layers, head = parameters(spec)
    least = (layers + head) * 2 / machine.read * 1e3
    print(f"| … reading the weights takes | {least:.3f} | |")
    length = min(4000, spec.max_position - 1)
    text = [7 * i % spec.vocab_size for i in range(length)]
    prefill = [_prefill(core, layers, text) / 1e12 for _ in range(arguments.rounds)]
    _row(f"prefill of 8 prompts of {length:,}, TFLOP/s", prefill, machine.flops / 1e12)
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


def _prefill(core: sides.EngineCore, layers: int, text: list[int]) -> float:
    """FLOP per second of the products over long prompts, attention's not counted."""
    return 2 * layers * 8 * len(text) / sides.answer(core, [Question(text, 1)] * 8)


def _row(name: str, values: list[float], limit: float | str) -> None:
    middle = statistics.median(values)
    share = "" if isinstance(limit, str) else f"{middle / limit:.0%} of {limit:,.0f}"
    spread = f"{middle:,.4g} ({min(values):,.4g} to {max(values):,.4g})"
    print(f"| {name} | {spread} | {share} |", flush=True)


if __name__ == "__main__":
    main()
