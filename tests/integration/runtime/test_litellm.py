"""litellm as it is, a client that is not ours: it reads our answers, and our errors as the classes that
its users catch.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import locked
from tests.integration.runtime.alphabet import ALPHABET
from tests.integration.runtime.conftest import PATIENCE, Server, eventually
from tests.integration.runtime.test_api import CHAT, idle
from tests.integration.runtime.test_lifecycle import stream as begin

KEY = "sk-of-the-test"


class RaisedError(Exception):
    """What litellm raised, and the classes that it is one of."""

    def __init__(self, kinds: list[str], status: int | None, message: str) -> None:
        super().__init__(f"{kinds[0]}: {message}")
        self.kinds = kinds
        self.status = status


class Litellm:
    """Its process: `call` a function of it."""

    def __init__(self) -> None:
        python = locked.environment("litellm") / "bin" / "python"
        # Its table of prices would be fetched at each start.
        environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("litellm_process.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, function: str, server: Server, key: str = "none", **arguments: Any) -> Any:
        """What a function of litellm returns; RaisedError if it raises."""
        arguments = {"api_base": server.url + "/v1", "api_key": key, "max_retries": 0} | arguments
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([function, arguments]), file=self.process.stdin, flush=True)
        result = json.loads(self.process.stdout.readline())
        if "raised" in result:
            raise RaisedError(result["raised"], result["status"], result["message"])
        return result["returned"]

    def refusal(self, function: str, server: Server, **arguments: Any) -> RaisedError:
        """What it raises."""
        with pytest.raises(RaisedError) as refused:
            self.call(function, server, **arguments)
        return refused.value


@pytest.fixture(scope="module")
def litellm() -> Iterator[Litellm]:
    client = Litellm()
    yield client
    assert client.process.stdin is not None
    client.process.stdin.close()
    client.process.wait(PATIENCE)


# "openai" is for any server of OpenAI's API, "hosted_vllm" for vLLM's.
PROVIDERS = ("openai", "hosted_vllm")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_chat_and_its_stream(litellm: Litellm, shared: Server, provider: str) -> None:
    asked = {"model": f"{provider}/abc", "messages": CHAT, "max_tokens": 5, "temperature": 0}
    whole = litellm.call("completion", shared, **asked)
    assert whole["choices"][0]["message"]["content"] == ALPHABET[:5]
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 5
    chunks = litellm.call(
        "completion", shared, stream=True, stream_options={"include_usage": True}, **asked
    )
    parts = [c["delta"]["content"] or "" for chunk in chunks for c in chunk["choices"]]
    assert "".join(parts) == ALPHABET[:5]
    assert [p for p in parts if p] == list(ALPHABET[:5]), "each token as it comes"
    assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_a_completion_and_its_stream(litellm: Litellm, shared: Server) -> None:
    asked = {"model": "text-completion-openai/abc", "prompt": "abc", "max_tokens": 4}
    whole = litellm.call("text_completion", shared, **asked)
    assert (whole["choices"][0]["text"], whole["usage"]["prompt_tokens"]) == ("defg", 3)
    chunks = litellm.call("text_completion", shared, stream=True, **asked)
    assert "".join(c["choices"][0]["text"] or "" for c in chunks) == "defg"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_embeddings(litellm: Litellm, shared: Server, provider: str) -> None:
    answer = litellm.call("embedding", shared, model=f"{provider}/abc", input=["a", "bc"])
    vectors = [item["embedding"] for item in answer["data"]]
    assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-3)
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("changes", "kind", "status"),
    [
        ({"temperature": -1}, "BadRequestError", 400),
        ({"messages": [{"role": "user", "content": "a" * 900}]}, "ContextWindowExceededError", 400),
        ({"model": "openai/gpt"}, "NotFoundError", 404),
    ],
)
def test_wrong_requests(
    litellm: Litellm, shared: Server, changes: dict[str, Any], kind: str, status: int
) -> None:
    for stream in (False, True):
        asked = {"model": "openai/abc", "messages": CHAT, "stream": stream} | changes
        raised = litellm.refusal("completion", shared, **asked)
        assert kind in raised.kinds, raised
        assert raised.status == status


def test_a_full_queue_is_a_rate_limit_and_is_waited_for(
    litellm: Litellm, start: Callable[..., Server]
) -> None:
    flags = ["--dtype", "bfloat16", "--min-step-ms", "20", "--max-num-seqs", "1"]
    server = start(*flags, "--max-num-queued-reqs", "0").wait_ready()
    running = begin(server, max_tokens=400)
    asked = {"model": "openai/abc", "messages": CHAT, "max_tokens": 1}
    raised = litellm.refusal("completion", server, **asked)
    assert "RateLimitError" in raised.kinds, raised
    assert not running.done()
    answer = litellm.call("completion", server, **asked | {"max_retries": 5})
    assert answer["choices"][0]["message"]["content"] == "a"
    running.result()
    eventually(lambda: idle(server), "blocks free")


def test_keys(litellm: Litellm, start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    server = start("--api-key-file", str(tmp_path / "keys"))
    eventually(lambda: server.get("/readyz").status_code == 200, "ready")
    asked = {"model": "openai/abc", "messages": CHAT, "max_tokens": 1}
    assert "AuthenticationError" in litellm.refusal("completion", server, **asked).kinds
    assert litellm.call("completion", server, key=KEY, **asked)["choices"]
