"""Two processes that serve one model: the same answers as from one, and no life without each other."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime.conftest import Server, alive, eventually
from tests.integration.runtime.test_lifecycle import stream

FLAGS = ["--execution", "torch", "--block-size", "16", "--max-num-seqs", "6", "--drain-delay", "0"]
FLAGS += ["--max-num-batched-tokens", "40", "--max-model-len", "400", "--min-step-ms", "5"]
# For a prompt of 380 tokens and little more, so that there is preemption: in all ranks, or the answers
# would be mixed up.
BLOCKS = 30


def flags(ranks: int) -> list[str]:
    # A rank's block has the rank's share of the heads: two layers, keys and values of 16 tokens.
    block = 2 * 2 * 16 * (2 // ranks) * 32 * 4
    cache = ["--kv-cache-memory-bytes", str(BLOCKS * block)]
    return [*FLAGS, *cache, "--tensor-parallel-size", str(ranks)]


@pytest.fixture(scope="module")
def servers(model: Path) -> Iterator[tuple[Server, Server]]:
    """One of one rank, one of two."""
    one, two = Server(model, *flags(1)), Server(model, *flags(2))
    yield one.wait_ready(), two.wait_ready()
    for server in (one, two):
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        server.close()
    assert not alive(rank_pid(two)), "no orphan keeps the memory"


def rank_pid(server: Server) -> int:
    """Of rank 1."""
    pid: int = server.wait_log("rank started")["rank_pid"]
    return pid


def test_answers_are_those_of_one_rank(servers: tuple[Server, Server]) -> None:
    questions: list[dict[str, Any]] = [
        {"prompt": "abc" * 100, "max_tokens": 40, "ignore_eos": True, "temperature": 0},
        {"prompt": "abc" * 100, "max_tokens": 60, "ignore_eos": True, "n": 3, "seed": 7},
        {"prompt": "?", "max_tokens": 30, "ignore_eos": True, "n": 4, "seed": 1, "logprobs": 2},
        {"prompt": "?", "max_tokens": 20, "ignore_eos": True, "seed": 2, "top_p": 0.5, "n": 2},
        {"prompt": "abc" * 90 + "xyz", "max_tokens": 8, "echo": True, "logprobs": 1},
    ]
    texts = []
    for server in servers:
        # What leaves midway, and what is refused, is so at the same step on all ranks.
        leaving = [stream(server, max_tokens=300 - i, n=2, prompt="abc" * 10) for i in range(2)]
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = pool.map(lambda q: server.complete(**q).json()["choices"], questions)  # noqa: B023
            refused = server.complete("a", max_tokens=1000)
            texts.append([[choice["text"] for choice in choices] for choices in answers])
        assert refused.status_code == 400
        for answer in leaving:
            assert answer.result()[-1] == "[DONE]"
        assert server.metric("prefix_cache_hits_total") > 0
        assert server.metric("num_preemptions_total") > 0
    assert texts[0] == texts[1]
    assert len(set(texts[0][2])) > 1, "they are random"


def test_a_request_without_a_seed_is_served(servers: tuple[Server, Server]) -> None:
    """Each rank draws the seed itself; they would not be in step with different ones."""
    _, two = servers
    for _ in range(3):
        assert len(two.complete("?", max_tokens=10, ignore_eos=True, n=3).json()["choices"]) == 3


@pytest.fixture
def loaded(start: Callable[..., Server], tmp_path: Path) -> tuple[Server, Path]:
    """A server of two ranks, and its termination log."""
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    more = ["--min-step-ms", "20", "--step-timeout", "2", "--termination-log", str(reason_file)]
    return start(*flags(2), *more).wait_ready(), reason_file


@pytest.mark.parametrize("busy", [True, False])
def test_a_dead_rank_ends_the_server(loaded: tuple[Server, Path], busy: bool) -> None:
    server, reason_file = loaded
    running = stream(server, max_tokens=300) if busy else None
    os.kill(rank_pid(server), signal.SIGKILL)
    assert server.wait_exit(5) == 1
    assert reason_file.read_text() == "rank 1 ended with SIGKILL"
    if running is not None:
        assert running.result()[-1]["error"]["code"] == "engine_dead"
    eventually(lambda: not alive(server.engine_pid), "no orphan")


def test_a_rank_that_hangs_is_found_and_leaves_nobody(loaded: tuple[Server, Path]) -> None:
    server, reason_file = loaded
    running = stream(server, max_tokens=300)
    os.kill(rank_pid(server), signal.SIGSTOP)
    eventually(lambda: server.get("/livez").status_code == 503, "hung", seconds=10)
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 1
    assert running.result()[-1]["error"]["code"] == "engine_dead"
    assert reason_file.read_text().startswith("engine hung: silent for ")
    eventually(lambda: not alive(rank_pid(server)), "a stopped one ends too")


def test_no_rank_outlives_the_server(loaded: tuple[Server, Path]) -> None:
    server, _ = loaded
    server.signal(signal.SIGKILL)
    for pid in (server.engine_pid, rank_pid(server)):
        eventually(lambda pid=pid: not alive(pid), "no orphan")


def test_a_model_that_cannot_be_divided_is_refused(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    server = start("--tensor-parallel-size", "3", "--termination-log", str(reason_file))
    assert server.wait_exit() == 1
    reason = "--tensor-parallel-size 3 does not divide the model's 4 attention heads"
    assert reason_file.read_text() == reason
