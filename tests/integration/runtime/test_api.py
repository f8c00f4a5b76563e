"""The API as clients see it, against one running server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.integration.runtime.alphabet import ALPHABET
from tests.integration.runtime.conftest import Server, eventually

TOOLS: Any = [{"type": "function", "function": {"name": "f"}}]
CHAT: Any = [{"role": "user", "content": "Say it."}]


def idle(server: Server) -> bool:
    """Nothing runs, nothing waits, every KV block is free."""
    return (
        server.metric("num_requests_running") == 0
        and server.metric("num_requests_waiting") == 0
        and server.metric("kv_blocks_free") == server.metric("kv_blocks_total")
    )


# --- answers ------------------------------------------------------------------------------------


def test_completion(shared: Server) -> None:
    answer = shared.openai().completions.create(model="abc", prompt="abc", max_tokens=4)
    assert answer.choices[0].text == "defg"
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_completion_of_token_ids(shared: Server) -> None:
    answer = shared.openai().completions.create(model="alias", prompt=[ord("k")], max_tokens=2)
    assert (answer.choices[0].text, answer.model) == ("lm", "alias")


def test_chat_to_the_end_of_the_sequence(shared: Server) -> None:
    answer = shared.openai().chat.completions.create(model="abc", messages=CHAT)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == ALPHABET
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 27, "the end of the sequence is a token"
    assert answer.usage.prompt_tokens == len("<Say it.><"), (
        "four special tokens, of which one is not here"
    )


def test_chat_stream(shared: Server) -> None:
    client = shared.openai()
    stream = client.chat.completions.create(
        model="abc",
        messages=CHAT,
        stream=True,
        max_completion_tokens=3,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert [c.choices[0].delta.content if c.choices else None for c in chunks] == [
        "",
        "a",
        "b",
        "c",
        None,
        None,
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 4 + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({(c.id, c.created, c.object) for c in chunks}) == 1


def test_completion_stream_on_the_wire(shared: Server) -> None:
    body = {"model": "abc", "prompt": "wx", "stream": True, "max_tokens": 9}
    response = shared.post("/v1/completions", **body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [c["choices"][0]["text"] for c in chunks] == ["y", "z", ""]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "stop"]
    assert all("usage" not in c for c in chunks), "usage was not asked for"


def test_chunks_arrive_one_by_one(shared: Server) -> None:
    stream = shared.openai().completions.create(
        model="abc", prompt="a", stream=True, max_tokens=100, extra_body={"ignore_eos": True}
    )
    times = [time.monotonic() for _ in stream]
    assert len(times) > 90, "the ends of sequences among them show as nothing"
    # 99 steps of at least 20 ms lie between the first token and the last. Held back, they would come
    # at once; but this process may be late for the first ones.
    assert times[-1] - times[0] > 0.5 * 99 * 0.020


def test_stop_strings(shared: Server) -> None:
    answer = shared.openai().completions.create(
        model="abc", prompt="a", max_tokens=20, stop=["ghi", "xyz"]
    )
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("bcdef", "stop")
    eventually(lambda: idle(shared), "the engine heard of the stop")


def test_ignore_eos(shared: Server) -> None:
    answer = shared.complete("y", max_tokens=5, ignore_eos=True).json()
    assert answer["choices"][0]["text"] == "zabc", "the end of the sequence is no text"
    assert answer["usage"]["completion_tokens"] == 5


def test_a_seed_repeats_an_answer(shared: Server) -> None:
    def answer(seed: int) -> str:
        body = {"max_tokens": 3, "temperature": 1.0, "seed": seed, "ignore_eos": True}
        return shared.complete("?", **body).json()["choices"][0]["text"]

    with ThreadPoolExecutor(6) as pool:
        one, two, again, *_ = pool.map(answer, [1, 2, 1, 3, 4, 5])
    assert one == again
    assert one != two


def test_many_at_once_with_too_few_blocks(shared: Server) -> None:
    """Twelve requests of up to 14 blocks each share 30 blocks: every answer is still right."""
    before = shared.metric("num_preemptions_total")
    prompts = [ALPHABET[: i + 1] * 7 for i in range(12)]

    def answer(prompt: str) -> str:
        return shared.complete(prompt, max_tokens=40, ignore_eos=True).json()["choices"][0]["text"]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(answer, prompts))
    endless = ALPHABET * 3
    for i, text in enumerate(answers):
        # One of the 40 tokens may be the end of the sequence, which shows as nothing.
        assert len(text) in (38, 39, 40)
        assert endless[i + 1 :].startswith(text)
    assert shared.metric("num_preemptions_total") > before
    eventually(lambda: idle(shared), "all blocks free")


def test_models(shared: Server) -> None:
    models = shared.openai().models.list().data
    assert [(m.id, m.object, m.owned_by) for m in models] == [
        ("abc", "model", "pagoda"),
        ("alias", "model", "pagoda"),
    ]


# --- leaving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_frees_the_blocks(shared: Server, stream: bool) -> None:
    aborted = shared.metric("request_success_total", finished_reason="abort")
    generated = shared.metric("generation_tokens_total")
    body = {"model": "abc", "prompt": "a", "max_tokens": 390, "ignore_eos": True, "stream": stream}
    if stream:
        with httpx.stream(
            "POST", shared.url + "/v1/completions", json=body, timeout=60
        ) as response:
            next(response.iter_lines())
    else:
        with shared.asked("/v1/completions", **body):
            eventually(lambda: shared.metric("generation_tokens_total") > generated, "it runs")
    eventually(lambda: idle(shared), "blocks free after leaving")
    # It would have taken 390 steps of 20 ms.
    assert shared.metric("generation_tokens_total") - generated < 390
    assert shared.metric("request_success_total", finished_reason="abort") == aborted + 1


# --- refusals -----------------------------------------------------------------------------------


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_openai_raises_what_it_should(shared: Server) -> None:
    client = shared.openai()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=CHAT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="abc", prompt="a" * 400, max_tokens=1)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model="abc", messages=CHAT, tools=TOOLS, stream=True)
    assert tools.value.param == "tools"
    with pytest.raises(openai.NotFoundError, match="chat/completions"):
        client.responses.create(model="abc", input="Say it.")


def test_unknown_paths_and_methods(shared: Server) -> None:
    missing = shared.get("/v1/nothing")
    assert missing.status_code == 404
    assert "/v1/nothing" in error_of(missing)["message"]
    method = shared.get("/v1/completions")
    assert method.status_code == 405
    assert method.headers["allow"] == "POST"
    error_of(method)


def test_a_body_that_is_no_json(shared: Server) -> None:
    response = shared.http.post(shared.url + "/v1/completions", content=b"{")
    assert response.status_code == 400
    error_of(response)


# --- measurements -------------------------------------------------------------------------------


def test_metrics_count(shared: Server) -> None:
    names = ("generation_tokens_total", "prompt_tokens_total", "time_to_first_token_seconds_count")
    names += ("inter_token_latency_seconds_count", "e2e_request_latency_seconds_count")
    names += ("request_queue_time_seconds_count",)
    before = {name: shared.metric(name) for name in names}
    ended = shared.metric("request_success_total", finished_reason="length")
    shared.complete("abcd", max_tokens=5)
    grown = [shared.metric(name) - before[name] for name in names]
    assert grown == [5, 4, 1, 4, 1, 1]
    assert shared.metric("request_success_total", finished_reason="length") == ended + 1


def test_a_prompt_seen_before_is_found_in_the_prefix_cache(shared: Server) -> None:
    prompt = "prefix" * 8  # Exactly three blocks, of which the last one is computed again.
    first = shared.complete(prompt, max_tokens=3).json()["choices"]
    queries, hits = (shared.metric(f"prefix_cache_{name}_total") for name in ("queries", "hits"))
    assert shared.complete(prompt, max_tokens=3).json()["choices"] == first
    assert shared.metric("prefix_cache_queries_total") - queries == 48
    assert shared.metric("prefix_cache_hits_total") - hits == 32


def test_tokens_are_counted_while_a_request_runs(shared: Server) -> None:
    before = shared.metric("generation_tokens_total")
    body = {"model": "abc", "prompt": "a", "max_tokens": 390, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", shared.url + "/v1/completions", json=body),
    ):
        eventually(lambda: shared.metric("generation_tokens_total") >= before + 3, "tokens counted")
        assert shared.metric("num_requests_running") == 1
        assert shared.metric("kv_cache_usage_perc") > 0
    eventually(lambda: idle(shared), "left")


def test_probes_answer_under_load(shared: Server) -> None:
    with ThreadPoolExecutor(12) as pool:
        loads = [
            pool.submit(shared.complete, "a", max_tokens=120, ignore_eos=True) for _ in range(12)
        ]
        # Eight seats; with too few blocks for eight long answers, more wait after a while.
        eventually(lambda: shared.metric("num_requests_waiting") >= 4, "a full batch")
        for path in ("/livez", "/readyz", "/health"):
            assert shared.get(path).status_code == 200
        assert all(load.result().status_code == 200 for load in loads)


def test_nothing_of_a_prompt_is_logged(shared: Server) -> None:
    bodies: list[dict[str, Any]] = [{"max_tokens": 1}, {"tools": [], "n": "SECRETPROMPT"}]
    for number, body in enumerate(bodies):
        shared.http.post(
            shared.url + "/v1/completions",
            json={"prompt": "SECRETPROMPT"} | body,
            headers={"x-request-id": f"secret-{number}"},
        )
    # A request's last line is written after its answer is sent.
    eventually(lambda: shared.lines("request", request_id="secret-1"), "its line")
    assert "SECRETPROMPT" not in json.dumps(shared.logs)
    (finished,) = shared.lines("request finished", request_id="secret-0")
    assert finished["prompt_tokens"] == 12
