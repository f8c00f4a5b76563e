"""Two processes that serve one model: the same answers as from one, and no life without each other."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.runtime.conftest import Server, alive, eventually
from tests.integration.runtime.test_lifecycle import ENDLESS, stream

FLAGS = ["--execution", "torch", "--block-size", "16", "--max-num-seqs", "6", "--drain-delay", "0"]
FLAGS += ["--max-num-batched-tokens", "40", "--max-model-len", "400", "--min-step-ms", "1"]
# For a prompt of 380 tokens and little more, so that there is preemption: in all ranks, or the answers
# would be mixed up.
BLOCKS = 30


def flags(ranks: int) -> list[str]:
    # A rank's block has the rank's share of the heads: two layers, keys and values of 16 tokens.
    block = 2 * 2 * 16 * max(1, 2 // ranks) * 32 * 4
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
    eventually(lambda: not alive(rank_pid(two)), "no orphan keeps the memory")


def rank_pid(server: Server, rank: int = 1) -> int:
    """The process of a rank that has started."""
    (pid,) = [
        line["rank_pid"]
        for line in server.logs
        if line["message"] == "rank started" and line["rank"] == rank
    ]
    assert isinstance(pid, int)
    return pid


def test_answers_are_those_of_one_rank(servers: tuple[Server, Server]) -> None:
    long = "abc" * 100
    questions: list[dict[str, Any]] = [
        {"prompt": long, "max_tokens": 40, "temperature": 0},
        {"prompt": long, "max_tokens": 60, "temperature": 1, "seed": 7, "n": 3},
        {"prompt": "?", "max_tokens": 30, "temperature": 1, "seed": 1, "n": 4},
        {"prompt": "?", "max_tokens": 20, "temperature": 1, "seed": 9, "n": 2, "top_p": 0.5},
        {"prompt": long[:-1], "max_tokens": 8, "temperature": 0, "echo": True, "logprobs": 1},
    ]
    texts = []
    for server in servers:
        with ThreadPoolExecutor(8) as pool:
            # Blocks are freed, and nothing is queued, in the same step on all ranks.
            leaving = [pool.submit(leave, server) for _ in range(3)]
            answers = list(pool.map(lambda q: ask(server, **q), questions))  # noqa: B023
            assert server.complete("a", max_tokens=1000).status_code == 400
            for one in leaving:
                one.result()
        assert server.metric("prefix_cache_hits_total") > 0
        assert server.metric("num_preemptions_total") > 0
        texts.append(answers)
    assert texts[0] == texts[1]
    assert len(set(texts[0][2])) > 1, "they are random"


def test_a_request_without_a_seed_is_served(servers: tuple[Server, Server]) -> None:
    """The engine draws one, the same on each rank."""
    _, two = servers
    assert len(set(ask(two, prompt="?", max_tokens=3, temperature=1, n=20))) > 1


def ask(server: Server, **question: Any) -> list[str]:
    answer = server.complete(**question, ignore_eos=True).json()
    return [choice["text"] for choice in answer["choices"]]


def leave(server: Server) -> None:
    """Begin to read an answer, and go."""
    body = ENDLESS | {"prompt": "abc" * 20, "max_tokens": 300, "n": 2}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
        next(response.iter_lines())


@pytest.fixture
def loaded(
    request: pytest.FixtureRequest, start: Callable[..., Server], tmp_path: Path
) -> tuple[Server, Path]:
    """A server of so many ranks, two by default, and its termination log."""
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    more = ["--min-step-ms", "20", "--step-timeout", "2", "--termination-log", str(reason_file)]
    ranks = getattr(request, "param", 2)
    return start(*flags(ranks), *more).wait_ready(), reason_file


def test_a_dead_rank_ends_an_idle_server(loaded: tuple[Server, Path]) -> None:
    server, reason_file = loaded
    os.kill(rank_pid(server), signal.SIGKILL)
    assert server.wait_exit() == 1
    assert reason_file.read_text() == "rank 1 ended with SIGKILL"


# Twice as many as KV heads.
@pytest.mark.parametrize("loaded", [4], indirect=True)
def test_a_dead_rank_ends_all_and_is_the_one_named(loaded: tuple[Server, Path]) -> None:
    """The others fail as well, since they cannot reach it any more."""
    server, reason_file = loaded
    running = stream(server, max_tokens=300)
    os.kill(rank_pid(server, 2), signal.SIGKILL)
    assert server.wait_exit() == 1
    assert reason_file.read_text() == "rank 2 ended with SIGKILL"
    assert running.result()[-1]["error"]["code"] == "engine_dead"
    for pid in (server.engine_pid, rank_pid(server, 1), rank_pid(server, 3)):
        eventually(lambda pid=pid: not alive(pid), "no orphan")


def test_a_rank_that_hangs_is_found_and_leaves_nobody(loaded: tuple[Server, Path]) -> None:
    server, reason_file = loaded
    running = stream(server, max_tokens=300)
    os.kill(rank_pid(server), signal.SIGSTOP)
    eventually(lambda: server.get("/livez").status_code == 503, "hung")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 1
    assert running.result()[-1]["error"]["code"] == "engine_dead"
    assert reason_file.read_text().startswith("engine hung: silent for ")
    eventually(lambda: not alive(rank_pid(server)), "a stopped one ends too")


def test_a_model_that_cannot_be_divided_is_refused(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    reason_file = tmp_path / "termination-log"
    reason_file.touch()
    server = start("--tensor-parallel-size", "3", "--termination-log", str(reason_file))
    assert server.wait_exit() == 1
    reason = "--tensor-parallel-size 3 does not divide the model's 4 attention heads"
    assert reason_file.read_text() == reason
