"""What the GPU can do at most, measured in the same run, and what a workload needs at least."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pagoda_runtime.model.spec import DecoderSpec

from tests.bench.gpu.workload import Question


@dataclass(frozen=True)
class Machine:
    """Measured rates: bytes read per second, and bfloat16 FLOP per second of a large product."""

    name: str
    read: float
    flops: float


def seconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Seconds of one call, from CUDA events, the mean of several after three to warm up."""
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def probe() -> Machine:
    """Measure. Random data: zeros take less power, and clocks rise."""
    source = torch.randn(1 << 30, dtype=torch.float32, device="cuda").to(torch.bfloat16)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    read = copied / seconds(lambda: target.copy_(source))
    size = 8192
    a, b = torch.randn(2, size, size, device="cuda").to(torch.bfloat16)
    flops = 2 * size**3 / seconds(lambda: torch.mm(a, b))
    return Machine(torch.cuda.get_device_name(), read, flops)


def parameters(spec: DecoderSpec) -> tuple[int, int]:
    """Of the layers, and of the head: what each token is multiplied with."""
    per_layer = spec.hidden_size * (2 * spec.q_size + 2 * spec.kv_size + 3 * spec.intermediate_size)
    return spec.num_layers * per_layer, spec.vocab_size * spec.hidden_size


def floor_seconds(
    machine: Machine, spec: DecoderSpec, questions: Sequence[Question], seats: int
) -> float:
    """The least time for the workload: prompts at the product's rate; answers by reading, for each
    token, its keys and values, and the weights once per step of as many as may run at once.

    The steps are as many as the longest answer has tokens, or as all answers make with every seat
    taken, whichever are more.
    """
    layers, head = parameters(spec)
    prompt_flops = 2 * layers * sum(len(q.prompt) for q in questions)
    prompt_flops += 2 * head * len(questions)
    kv_bytes = 2 * spec.num_layers * spec.kv_size * 2
    contexts = sum(sum(range(len(q.prompt), len(q.prompt) + q.answer)) for q in questions)
    tokens = sum(q.answer for q in questions)
    steps = max(max(q.answer for q in questions), tokens / seats)
    answer_bytes = contexts * kv_bytes + steps * (layers + head) * 2
    answer_flops = 2 * (layers + head) * tokens
    answering = max(answer_bytes / machine.read, answer_flops / machine.flops)
    return prompt_flops / machine.flops + answering
