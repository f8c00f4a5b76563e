"""Two ranks answer as one: the same tokens, and what is read of the model to rounding."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pagoda_runtime.attention.base import KVLayout
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.config import ConfigError, EngineConfig, Rank
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, Request, SamplingParams
from pagoda_runtime.engine.step import Chunk
from pagoda_runtime.engine.torch_runner import TorchRunner
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.group import Group
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import parse_spec, read_spec
from transformers import LlamaConfig, LlamaForCausalLM

from tests.unit.runtime import second_rank
from tests.unit.runtime.second_rank import BLOCKS, Job
from tests.unit.runtime.test_oracle import COMMON, MODELS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

ONE_KV_HEAD = {
    "llama-one-kv-head": lambda: LlamaForCausalLM(
        LlamaConfig(**(COMMON | {"num_key_value_heads": 1}), num_hidden_layers=2)
    )
}


class SecondRank:
    """The process of rank 1."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.runtime.second_rank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def begin(self, job: Job) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(second_rank.job_line(job))
        self.process.stdin.flush()

    def tokens(self) -> dict[str, list[int]]:
        assert self.process.stdout is not None
        answers: dict[str, list[int]] = json.loads(self.process.stdout.readline())
        return answers


@pytest.fixture(scope="module")
def second() -> Iterator[SecondRank]:
    rank = SecondRank()
    yield rank
    rank.process.kill()
    rank.process.wait()


def serve_with_one(model: Path, **options: Any) -> dict[str, list[Delta]]:
    job = Job(str(model), port=0, **options)
    return second_rank.serve(second_rank.engine(job, Rank(), size=1), job)


def serve_with_two(second: SecondRank, model: Path, **options: Any) -> dict[str, list[Delta]]:
    """Rank 0 is this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    job = Job(str(model), port=listener.getsockname()[1], **options)
    second.begin(job)
    core = second_rank.engine(job, Rank(0, job.port, listener.detach()), size=2)
    try:
        answers = second_rank.serve(core, job)
        assert second.tokens() == second_rank.tokens(answers), "the ranks run in step"
    finally:
        dist.destroy_process_group()
    stats = core.stats()
    assert stats.total_blocks == stats.free_blocks == BLOCKS
    assert stats.prefix_cache_hits_total > 0
    # What has left every layer's window is given back, and then there may be enough.
    enough = job.few or read_spec(model).largest_window is not None
    assert stats.preemptions_total > 0 or enough
    return answers


def check(two: dict[str, list[Delta]], one: dict[str, list[Delta]]) -> None:
    assert second_rank.tokens(two) == second_rank.tokens(one)
    assert two.keys() == one.keys()
    for name, deltas in two.items():
        for left, right in zip(deltas, one[name], strict=True):
            assert left.finish_reason == right.finish_reason
            assert left.embedding == pytest.approx(right.embedding, abs=1e-4)
            for mine, theirs in zip(
                [*left.logprobs, *left.prompt_logprobs],
                [*right.logprobs, *right.prompt_logprobs],
                strict=True,
            ):
                if mine is None or theirs is None:
                    assert mine == theirs
                    continue
                assert mine.token == theirs.token
                assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.mark.parametrize("name", [*MODELS, *ONE_KV_HEAD])
def test_two_ranks_answer_as_one(name: str, second: SecondRank, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = (MODELS | ONE_KV_HEAD)[name]().eval()
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if "norm" in parameter or parameter.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"execution": "torch", "load_format": "auto"}
    one = serve_with_one(tmp_path, **options)
    check(serve_with_two(second, tmp_path, **options), one)
    assert one["7"][-1].finish_reason == FinishReason.TIMEOUT
    assert 0 < len(second_rank.tokens(one)["1"]) < 20, "it was taken back"


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="each rank needs a GPU"
)
def test_two_ranks_of_the_gpu_execution_answer_as_one(second: SecondRank, tmp_path: Path) -> None:
    """Its kernels on the heads of one rank; interpreted where there is no GPU."""
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Qwen3ForCausalLM"],
                "vocab_size": 70,
                "hidden_size": 24,
                "intermediate_size": 40,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "max_position_embeddings": 64,
                "dtype": "float32",
            }
        )
    )
    options: dict[str, Any] = {"load_format": "dummy", "few": True}
    check(
        serve_with_two(second, tmp_path, execution="cuda", **options),
        serve_with_one(tmp_path, execution="torch", **options),
    )


def test_the_fused_execution_is_not_parallel(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**COMMON, num_hidden_layers=1)).save_pretrained(tmp_path)
    config = EngineConfig(str(tmp_path), execution="native", tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="native: it has no tensor parallelism"):
        build_engine(config)


class Pair(Group):
    """As if there were another rank, which has chosen token 5."""

    size = 2

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        return x.fill_(5)


def runner(group: Group) -> TorchRunner:
    spec = parse_spec(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 8,
            "hidden_size": 4,
            "intermediate_size": 4,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 8,
        }
    )

    decoder = Decoder(spec, dummy_weights(spec, torch.float32, 0), 8, group)
    return TorchRunner(decoder, PagedTorchAttention(spec, KVLayout(1, 8, torch.float32)), 1)


def one_token() -> Chunk:
    params = SamplingParams(max_tokens=1, seed=0, logit_bias=((3, 50.0),))
    return Chunk(Request("a", [1], params, block_table=[0]), 0, 1)


@pytest.mark.parametrize(("group", "token"), [(Group(), 3), (Pair(), 5)])
def test_the_first_ranks_token_counts(group: Group, token: int) -> None:
    """Another rank's logits may differ in the last bit."""
    (output,) = runner(group).run([one_token()])
    assert output.sampled is not None
    assert output.sampled.token == token


@pytest.mark.parametrize(
    ("group", "error"), [(Group(), MemoryError), (Pair(), torch.OutOfMemoryError)]
)
def test_no_memory_on_a_rank_ends_the_engine(
    group: Group, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step tried again would be one more than the other ranks compute."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(PagedTorchAttention, "plan", full)
    with pytest.raises(error, match="no memory"):
        runner(group).run([one_token()])
