"""What two ranks of a tensor-parallel group do in the tests, and the second of them: `python -m
tests.unit.runtime.second_rank`.

For every job, a line of JSON on its standard input, it builds its engine, serves the questions, and
writes the tokens of the answers.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch.distributed as dist
from pagoda_runtime.config import EngineConfig, Rank
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.kv_size import block_bytes
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import PoolingParams, Request, SamplingParams
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import read_spec

BLOCK, BLOCKS = 8, 14  # So few that requests are preempted.
Params = SamplingParams | PoolingParams


@dataclass(frozen=True)
class Job:
    """A model to serve with two ranks, which meet at this port. few: short questions, for where kernels
    are interpreted.
    """

    model: str
    execution: Literal["cuda", "torch"]
    load_format: Literal["auto", "dummy"]
    port: int
    few: bool = False


def engine(job: Job, rank: Rank, size: int) -> EngineCore:
    # Rank 0 has room for more blocks than rank 1: what counts is where there are fewest.
    blocks = BLOCKS + (3 if rank.index == 0 and size > 1 else 0)
    spec = Shard(read_spec(Path(job.model)), rank.index, size).spec
    config = EngineConfig(
        model=job.model,
        execution=job.execution,
        load_format=job.load_format,
        max_num_seqs=4,
        max_num_batched_tokens=19,
        max_num_queued_reqs=8,
        block_size=BLOCK,
        max_model_len=60,
        kv_cache_memory_bytes=blocks * block_bytes(spec, BLOCK, itemsize=4),
        tensor_parallel_size=size,
    )
    return build_engine(config, rank=rank)[0]


def serve(core: EngineCore, job: Job) -> dict[str, list[Delta]]:
    """Ask all kinds of questions, some of them later, one taken back and one too late."""
    vocab = read_spec(Path(job.model)).vocab_size
    text = [7 * i % vocab for i in range(40)]
    greedy = {"temperature": 0.0}
    few: list[tuple[int, int, Params]] = [  # step, length of the prompt
        (0, 18, SamplingParams(max_tokens=3, **greedy, logprobs=2)),
        (0, 1, SamplingParams(max_tokens=4, seed=2)),
        (1, 18, SamplingParams(max_tokens=2, seed=3, presence_penalty=0.5)),
    ]
    many: list[tuple[int, int, Params]] = [
        (0, 30, SamplingParams(max_tokens=20, **greedy, logprobs=3)),
        (0, 1, SamplingParams(max_tokens=20, temperature=0.8, top_p=0.9)),
        (0, 22, SamplingParams(max_tokens=8, seed=3, presence_penalty=0.5, logprobs=2)),
        (2, 40, SamplingParams(max_tokens=12, **greedy, prompt_logprobs=2)),
        (2, 33, PoolingParams("mean")),
        (3, 30, SamplingParams(max_tokens=6, **greedy, logit_bias=((5, 30.0),))),
        (4, 12, SamplingParams(max_tokens=20, **greedy)),
        (4, 12, SamplingParams(max_tokens=40, **greedy, deadline=9.0)),
    ]
    questions = few if job.few else many
    answers: dict[str, list[Delta]] = {}
    step = 0
    while step < 5 or core.has_work:
        for i, (begin, length, params) in enumerate(questions):
            if begin == step:
                prompt = [*text[: length - length // 3], *range(i, i + length // 3)]
                core.add(Request(str(i), prompt, params))
        if step == 7:
            core.abort(["1"])
        for delta in core.step(float(step))[0]:
            answers.setdefault(delta.id, []).append(delta)
        step += 1
    return answers


def tokens(answers: dict[str, list[Delta]]) -> dict[str, list[int]]:
    return {
        name: [t for delta in deltas for t in delta.token_ids] for name, deltas in answers.items()
    }


def job_line(job: Job) -> str:
    return json.dumps(asdict(job)) + "\n"


if __name__ == "__main__":
    for line in sys.stdin:
        job = Job(**json.loads(line))
        core = engine(job, Rank(1, job.port), size=2)
        print(json.dumps(tokens(serve(core, job))), flush=True)
        dist.destroy_process_group()
