"""Who answers the workload: Pagoda's engine, called directly, and transformers' continuous batching."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.model.spec import read_spec

from tests.bench.gpu.workload import Question


def engine(model: Path, *, seats: int = 256, length: int = 4096) -> EngineCore:
    """Pagoda's engine with random weights, its context the model's or this, whichever is shorter; it
    has made its first token.
    """
    config = EngineConfig(
        model=str(model),
        execution="cuda",
        dtype="bfloat16",
        load_format="dummy",
        max_model_len=min(length, read_spec(model).max_position),
        max_num_seqs=seats,
        max_num_batched_tokens=8192,
        max_num_queued_reqs=100_000,
        enable_prefix_caching=False,
    )
    core, _, _ = build_engine(config)
    core.self_test()
    return core


def answer(core: EngineCore, asked: Sequence[Question]) -> float:
    """Seconds from the first request to the last token."""
    begun = time.monotonic()
    for number, question in enumerate(asked):
        params = SamplingParams(max_tokens=question.answer, temperature=0.0)
        core.add(Request(str(number), question.prompt, params, begun))
    written = 0
    while core.has_work:
        written += sum(len(delta.token_ids) for delta in core.step()[0])
    assert written == sum(question.answer for question in asked)
    return time.monotonic() - begun


def transformers_answer(model: Path, asked: Sequence[Question], device: str = "cuda") -> float:
    """The same by transformers, with the same shape and random weights of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(model)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        torch.set_default_dtype(torch.float32)
    manager = made.eval().init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    )
    manager.start()
    begun = time.monotonic()
    for question in asked:
        manager.add_request(question.prompt, max_new_tokens=question.answer)
    left, written = len(asked), 0
    while left:
        output = manager.get_result(timeout=60)
        assert output is not None, "nothing within a minute"
        if output.is_finished():
            left -= 1
            written += len(output.generated_tokens)
    taken = time.monotonic() - begun
    manager.stop(block=True)
    assert written == sum(question.answer for question in asked), written
    return taken
