"""openai-python as it is, sync and async: its requests are understood, its errors the right ones."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.integration.runtime.alphabet import ALPHABET
from tests.integration.runtime.conftest import PATIENCE, Server, eventually
from tests.integration.runtime.test_api import CHAT, idle
from tests.integration.runtime.test_lifecycle import stream as begin

Start = Callable[..., Server]


def test_everything_a_chat_client_may_send(shared: Server) -> None:
    answer = shared.openai().chat.completions.create(
        model="abc",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Say "}], "name": "me"},
            {"role": "assistant", "content": "What?"},
            {"role": "user", "content": "it."},
        ],
        frequency_penalty=0.0,
        logit_bias={"0": -1},
        logprobs=True,
        max_completion_tokens=5,
        metadata={"a": "b"},
        modalities=["text"],
        n=1,
        parallel_tool_calls=False,
        presence_penalty=0.0,
        prompt_cache_key="k",
        reasoning_effort="low",
        response_format={"type": "text"},
        safety_identifier="me",
        seed=1,
        service_tier="auto",
        stop=["x", "y"],
        store=False,
        temperature=0.0,
        tool_choice="none",
        tools=[{"type": "function", "function": {"name": "f"}}],
        top_logprobs=1,
        top_p=1.0,
        user="me",
        verbosity="low",
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.0,
            "min_tokens": 2,
            "priority": 1,
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False},
        },
        extra_headers={"x-request-id": "from-a-client"},
    )
    assert answer.choices[0].message.content == "abcde"
    assert answer._request_id == "from-a-client"
    assert answer.system_fingerprint is not None
    type(answer).model_validate(answer.model_dump())


def test_streams_of_the_sync_client(shared: Server) -> None:
    client = shared.openai()
    with client.chat.completions.stream(model="abc", messages=CHAT) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ALPHABET
    raw = client.completions.with_streaming_response.create(
        model="abc", prompt="a", max_tokens=2, stream=True
    )
    with raw as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert [c.choices[0].text for c in response.parse()] == ["b", "c", ""]


async def test_many_streams_of_the_async_client(shared: Server) -> None:
    client = AsyncOpenAI(base_url=shared.url + "/v1", api_key="none", max_retries=0)

    async def one(n: int) -> list[str]:
        texts = [""] * n
        stream = await client.chat.completions.create(
            model="abc", messages=CHAT, n=n, stream=True, max_tokens=10
        )
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return texts

    answers = await asyncio.gather(*(one(n) for n in (1, 2, 3, 1)))
    assert answers == [[ALPHABET[:10]] * n for n in (1, 2, 3, 1)]
    await client.close()


async def test_leaving_an_async_stream(shared: Server) -> None:
    generated = shared.metric("generation_tokens_total")
    client = AsyncOpenAI(base_url=shared.url + "/v1", api_key="none")
    stream = await client.completions.create(
        model="abc", prompt="a", max_tokens=390, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()
    await client.close()
    eventually(lambda: idle(shared), "blocks free")
    assert shared.metric("generation_tokens_total") - generated < 390


def test_errors_in_the_middle_of_a_stream_are_raised(shared: Server) -> None:
    stream = shared.openai().completions.create(
        model="abc",
        prompt="a",
        max_tokens=390,
        stream=True,
        extra_body={"ignore_eos": True, "timeout_ms": 2000},
    )
    with pytest.raises(openai.APIError, match="deadline"):
        list(stream)


def test_error_classes_and_retries(start: Start) -> None:
    server = start(
        "--dtype",
        "bfloat16",
        "--min-step-ms",
        "20",
        "--max-num-seqs",
        "1",
        "--max-num-queued-reqs",
        "0",
    ).wait_ready()
    running = begin(server, max_tokens=400)
    client = server.openai()
    for stream in (True, False):
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(model="abc", prompt="a", stream=stream)
        assert full.value.code == "queue_full"
    patient = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=5, timeout=PATIENCE)
    answer = patient.completions.create(model="abc", prompt="a", max_tokens=1)
    assert answer.choices[0].text == "b", "it waits as long as it is told, and comes again"
    running.result()
    late: dict[str, Any] = {"ignore_eos": True, "timeout_ms": 100}
    with pytest.raises(openai.InternalServerError) as expired:
        patient.completions.create(model="abc", prompt="a", max_tokens=900, extra_body=late)
    assert expired.value.status_code == 504
    assert server.metric("request_success_total", finished_reason="timeout") == 1, "no retry"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    assert client.models.retrieve("abc").id == "abc"
