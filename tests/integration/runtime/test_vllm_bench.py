"""`vllm bench serve`, a load generator that is not ours: no request fails, and it counts what our
metrics count.
"""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dev.vllm_cpu import environment
from tests.integration.runtime.conftest import Server, eventually

Start = Callable[..., Server]

REQUESTS = 8
PROMPT = 24  # tokens
ANSWER = 16
ROUTES = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
# What the command does, twice in one process: its imports are nearly all of the time it takes.
BENCH = """
import argparse, json, sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.platforms import current_platform

parser = argparse.ArgumentParser()
add_cli_args(parser)
for flags in json.loads(sys.argv[1]):
    main(parser.parse_args(flags))
"""


# The import alone takes 20 s of processor time; cores are shared.
@pytest.mark.timeout(300)
def test_it_fails_no_request_and_counts_what_we_count(
    start: Start, model: Path, tmp_path: Path
) -> None:
    server = start().wait_ready()
    results = bench(server, model, tmp_path)
    for backend, result in results.items():
        assert (result["completed"], result["failed"]) == (REQUESTS, 0), result["errors"]
        assert result["total_output_tokens"] == REQUESTS * ANSWER
        # An answer is counted when its connection has taken it, so maybe after the client has it.
        eventually(partial(has_answered, server, ROUTES[backend]), backend)
    read = sum(result["total_input_tokens"] for result in results.values())
    written = sum(result["total_output_tokens"] for result in results.values())
    requests = REQUESTS * len(results)
    assert server.metric("prompt_tokens_total") == read
    assert server.metric("generation_tokens_total") == written
    assert server.metric("request_prompt_tokens_sum") == read
    assert server.metric("request_generation_tokens_sum") == written
    assert server.metric("request_success_total", finished_reason="length") == requests
    assert server.metric("time_to_first_token_seconds_count") == requests
    assert server.metric("inter_token_latency_seconds_count") == written - requests


def bench(server: Server, model: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Its report on each backend, all with requests sent at once."""
    flags = ["--base-url", server.url, "--model", "abc", "--served-model-name", "abc"]
    flags += ["--tokenizer", str(model), "--dataset-name", "random", "--disable-tqdm"]
    flags += ["--num-prompts", str(REQUESTS), "--temperature", "0"]
    flags += ["--random-input-len", str(PROMPT), "--random-output-len", str(ANSWER)]
    # Its check is a request like the others, but is in no count.
    flags += ["--ready-check-timeout-sec", "0"]
    flags += ["--save-result", "--save-detailed", "--result-dir", str(out)]
    runs = [
        [*flags, "--backend", name, "--endpoint", route, "--result-filename", f"{name}.json"]
        for name, route in ROUTES.items()
    ]
    done = subprocess.run(
        [environment() / "bin" / "python", "-c", BENCH, json.dumps(runs)],
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((out / f"{name}.json").read_text()) for name in ROUTES}


def has_answered(server: Server, route: str) -> bool:
    """Whether a route has answered all its requests well; before the first there is no count."""
    labels = {"method": "POST", "handler": route, "status": "200"}
    with suppress(AssertionError):
        return server.metric("http_requests_total", **labels) == REQUESTS
    return False
