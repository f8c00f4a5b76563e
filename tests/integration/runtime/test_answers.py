"""Several answers at once, log-probabilities, token ids: what a client can ask beside the text."""

import json
import math
from typing import Any

import httpx
import pytest

from tests.integration.runtime.alphabet import ALPHABET
from tests.integration.runtime.conftest import Server, eventually
from tests.integration.runtime.test_api import CHAT, idle

END = "<|end|>"


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream that ended well."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# --- n and several prompts ----------------------------------------------------------------------


def test_n_answers_to_one_chat(shared: Server) -> None:
    answer = shared.openai().chat.completions.create(model="abc", messages=CHAT, n=3)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert {c.message.content for c in answer.choices} == {ALPHABET}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 3 * 27)


def test_n_answers_with_a_seed_differ_and_repeat(shared: Server) -> None:
    def texts(**body: Any) -> list[str]:
        options = {"max_tokens": 3, "temperature": 1.0, "ignore_eos": True} | body
        return [c["text"] for c in shared.complete("?", **options).json()["choices"]]

    three = texts(n=3, seed=5)
    assert len(set(three)) == 3
    assert texts(n=3, seed=5) == three
    assert texts(seed=6) == three[1:2], "the k-th has seed + k"


def test_several_prompts_and_n(shared: Server) -> None:
    answer = shared.openai().completions.create(
        model="abc", prompt=["ab", "xy", "klm"], n=2, max_tokens=2
    )
    assert [c.index for c in answer.choices] == list(range(6))
    assert [c.text for c in answer.choices] == ["cd", "cd", "z", "z", "no", "no"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 7, "each prompt once"


def test_prompts_of_token_ids(shared: Server) -> None:
    prompts = [[ord("a")], [ord("b"), ord("c")]]
    answer = shared.complete(prompts, max_tokens=1)  # type: ignore[arg-type]
    assert [c["text"] for c in answer.json()["choices"]] == ["b", "d"]


def test_a_stream_of_several_choices(shared: Server) -> None:
    body: dict[str, Any] = {"messages": CHAT, "n": 2, "max_tokens": 3, "stream": True}
    chunks = events(shared.post("/v1/chat/completions", **body, return_token_ids=True))
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert [c["delta"].get("content", "") for c in mine[1:]] == ["a", "b", "c", ""]
        assert [c["finish_reason"] for c in mine] == [None] * 4 + ["length"]
        assert [c["token_ids"] for c in mine[1:-1]] == [[97], [98], [99]]
    assert len(chunks[0]["prompt_token_ids"]) == 10
    assert {c["id"] for c in chunks} == {chunks[0]["id"]}


def test_prompts_share_their_blocks(shared: Server) -> None:
    prompt = "cached prompt, thirty-three bytes"
    assert len(prompt) == 33
    first = shared.complete(prompt, max_tokens=1, n=2, cache_salt="x").json()["usage"]
    again = shared.complete(prompt, max_tokens=1, cache_salt="x").json()["usage"]
    other = shared.complete(prompt, max_tokens=1, cache_salt="y").json()["usage"]
    cached = [u["prompt_tokens_details"]["cached_tokens"] for u in (first, again, other)]
    assert cached == [0, 32, 0]


def test_more_answers_than_can_ever_be_taken(shared: Server) -> None:
    # 8 seats, and four times as many places in the queue.
    refused = shared.complete("a", n=41, max_tokens=1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert shared.complete("a", n=40, max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_ends_all_choices(shared: Server, stream: bool) -> None:
    aborted = shared.metric("request_success_total", finished_reason="abort")
    generated = shared.metric("generation_tokens_total")
    body: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "max_tokens": 90, "ignore_eos": True}
    if stream:
        with httpx.stream(
            "POST", shared.url + "/v1/completions", json=body | {"stream": True}, timeout=60
        ) as response:
            next(response.iter_lines())
    else:
        with shared.asked("/v1/completions", **body):
            eventually(lambda: shared.metric("generation_tokens_total") > generated, "they run")
    eventually(lambda: idle(shared), "blocks free after leaving")
    # Four answers of 90 steps of 20 ms each.
    assert shared.metric("generation_tokens_total") - generated < 4 * 90
    assert shared.metric("request_success_total", finished_reason="abort") == aborted + 4


# --- where an answer stops ----------------------------------------------------------------------


def stopped(shared: Server, **body: Any) -> tuple[str, str, Any]:
    choice = shared.complete("a", **({"max_tokens": 10} | body)).json()["choices"][0]
    return choice["text"], choice["finish_reason"], choice["stop_reason"]


def test_what_stops_an_answer(shared: Server) -> None:
    assert stopped(shared, stop="ef") == ("bcd", "stop", "ef")
    assert stopped(shared, stop="ef", include_stop_str_in_output=True) == ("bcdef", "stop", "ef")
    assert stopped(shared, stop_token_ids=[101]) == ("bcd", "stop", 101)
    assert stopped(shared, stop_token_ids=[101], include_stop_str_in_output=True) == (
        "bcde",
        "stop",
        101,
    )
    assert stopped(shared, max_tokens=40) == (ALPHABET[1:], "stop", None)
    assert stopped(shared, max_tokens=3) == ("bcd", "length", None)
    assert stopped(shared, stop="c", min_tokens=3, max_tokens=5)[0] == "bcdef"


def test_special_tokens_can_be_text(shared: Server) -> None:
    body = {"max_tokens": 3, "ignore_eos": True, "skip_special_tokens": False}
    assert shared.complete("y", **body).json()["choices"][0]["text"] == f"z{END}a"


def test_a_bias_changes_the_answer(shared: Server) -> None:
    bias = {str(ord("q")): 100, str(ord("b")): -100}
    answer = shared.complete("a", max_tokens=1, logit_bias=bias).json()
    assert answer["choices"][0]["text"] == "q"


# --- log-probabilities --------------------------------------------------------------------------


def test_logprobs_of_a_chat(shared: Server) -> None:
    answer = shared.openai().chat.completions.create(
        model="abc", messages=CHAT, max_tokens=2, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(one.token, one.bytes) for one in logprobs.content] == [("a", [97]), ("b", [98])]
    for one in logprobs.content:
        assert len(one.top_logprobs) == 3
        assert (one.top_logprobs[0].token, one.top_logprobs[0].logprob) == (one.token, one.logprob)
        assert one.logprob > -0.1
        values = [likely.logprob for likely in one.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_logprobs_in_a_stream_are_those_of_the_whole(shared: Server) -> None:
    body: dict[str, Any] = {"messages": CHAT, "max_tokens": 30, "logprobs": True, "top_logprobs": 1}
    whole = shared.post("/v1/chat/completions", **body).json()["choices"][0]["logprobs"]["content"]
    chunks = events(shared.post("/v1/chat/completions", **body, stream=True))
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [one for part in parts for one in part["content"]] == whole
    assert len(whole) == 27
    assert whole[-1]["token"] == END, "the end of the sequence is a token"


def test_logprobs_of_a_completion(shared: Server) -> None:
    answer = shared.complete("ab", max_tokens=2, logprobs=2).json()["choices"][0]
    logprobs = answer["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["c", "d"], [0, 1])
    assert all(len(likely) == 2 for likely in logprobs["top_logprobs"])
    chosen = [likely[t] for likely, t in zip(logprobs["top_logprobs"], "cd", strict=True)]
    assert chosen == logprobs["token_logprobs"]


def test_what_lm_eval_asks_for_a_loglikelihood(shared: Server) -> None:
    """The prompt's logprobs, and no answer or a token of one that it throws away."""
    body: dict[str, Any] = {"echo": True, "logprobs": 1, "temperature": 0, "seed": 1}
    zero = shared.complete("abcx", max_tokens=0, **body).json()
    choice = zero["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("abcx", "length")
    assert zero["usage"]["completion_tokens"] == 0
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == list("abcx")
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    b, c, x = logprobs["token_logprobs"][1:]
    assert b > -0.1
    assert c > -0.1
    assert x < -1.0, "x does not follow c"
    assert max(logprobs["top_logprobs"][3], key=logprobs["top_logprobs"][3].get) == "d"

    one = shared.complete("abcx", max_tokens=1, **body).json()["choices"][0]
    assert one["text"] == "abcxy"
    assert one["logprobs"]["tokens"] == list("abcxy")
    assert one["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
    for mine, theirs in zip(
        one["logprobs"]["token_logprobs"][1:4], logprobs["token_logprobs"][1:], strict=True
    ):
        assert math.isclose(mine, theirs, abs_tol=1e-3)


def test_an_echo_in_a_stream_comes_first(shared: Server) -> None:
    body: dict[str, Any] = {"prompt": "ab", "echo": True, "max_tokens": 2, "logprobs": 0}
    chunks = events(shared.post("/v1/completions", **body, stream=True))
    assert [c["choices"][0]["text"] for c in chunks] == ["ab", "c", "d", ""]
    offsets = [
        c["choices"][0]["logprobs"] and c["choices"][0]["logprobs"]["text_offset"] for c in chunks
    ]
    assert offsets == [[0, 1], [2], [3], None]


def test_an_echo_without_an_answer_or_logprobs(shared: Server) -> None:
    choice = shared.complete("Grüße", echo=True, max_tokens=0).json()["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("Grüße", None)


def test_offsets_are_characters(shared: Server) -> None:
    """A character of several tokens begins where its first token does."""
    choice = shared.complete("ü€a", echo=True, max_tokens=1, logprobs=0).json()["choices"][0]
    assert choice["text"] == "ü€ab"
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 1, 1, 2, 3]
    named = shared.complete("a", max_tokens=1, logprobs=0, return_tokens_as_token_ids=True).json()
    assert named["choices"][0]["logprobs"]["tokens"] == [f"token_id:{ord('b')}"]


# --- usage and ids ------------------------------------------------------------------------------


def test_token_ids(shared: Server) -> None:
    choice = shared.complete("xy", return_token_ids=True).json()["choices"][0]
    assert choice["prompt_token_ids"] == list(b"xy")
    assert choice["token_ids"][:1] == list(b"z")
    assert len(choice["token_ids"]) == 2, "the end of the sequence is a token"
    chunks = events(shared.complete("xy", return_token_ids=True, stream=True))
    assert chunks[0]["choices"][0]["prompt_token_ids"] == list(b"xy")
    ids = [t for c in chunks for t in c["choices"][0].get("token_ids", [])]
    assert ids == choice["token_ids"]


def test_usage_while_it_grows(shared: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(shared.complete("a", max_tokens=3, stream=True, stream_options=options))
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts == [1, 2, 3, 3, 3]
    assert chunks[-1]["choices"] == []


def test_continuing_a_message(shared: Server) -> None:
    messages = [*CHAT, {"role": "assistant", "content": "abc"}]
    body: dict[str, Any] = {"messages": messages, "continue_final_message": True, "max_tokens": 2}
    answer = shared.post("/v1/chat/completions", **body).json()
    assert answer["choices"][0]["message"]["content"] == "de"


# --- tokens and embeddings ----------------------------------------------------------------------


def test_tokens_there_and_back(shared: Server) -> None:
    answer = shared.post("/tokenize", prompt="ü<|end|>", return_token_strs=True).json()
    assert answer["tokens"][:2] == list("ü".encode())
    assert (answer["count"], answer["max_model_len"]) == (3, 400)
    assert answer["token_strs"][2] == END
    assert shared.post("/detokenize", tokens=answer["tokens"]).json() == {"prompt": "ü<|end|>"}
    chat = shared.post("/tokenize", messages=CHAT).json()
    assert chat["count"] == 10
    assert chat["token_strs"] is None
    for body in ({}, {"prompt": "a", "messages": CHAT}):
        assert shared.post("/tokenize", **body).status_code == 400  # type: ignore[arg-type]
    assert shared.post("/detokenize", tokens=[10**6]).json()["error"]["param"] == "tokens"


def test_embeddings(shared: Server) -> None:
    client = shared.openai()
    # Without a format openai-python asks for base64 and decodes it.
    data = client.embeddings.create(model="abc", input=["abc", "b", "abc"]).data
    assert [one.index for one in data] == [0, 1, 2]
    vectors = [one.embedding for one in data]
    assert all(len(vector) == 128 for vector in vectors)
    assert all(math.isclose(math.hypot(*v), 1.0, abs_tol=1e-5) for v in vectors)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    for same in ("abc", [97, 98, 99], [[97, 98, 99]]):
        answer = client.embeddings.create(model="abc", input=same, encoding_format="float")
        floats = answer.data[0].embedding
        assert floats == pytest.approx(vectors[0], abs=1e-5)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    many = client.embeddings.create(model="abc", input=["abc", "b"] * 30).data
    assert len(many) == 60, "more than there are seats and places in the queue"
    assert many[58].embedding == pytest.approx(vectors[0], abs=1e-5)
    eventually(lambda: idle(shared), "all blocks free")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [10**6]}, "input"),
        ({"input": "a" * 401}, "input"),
        ({"input": "a", "dimensions": 2}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_refused_embeddings(shared: Server, body: Any, param: str) -> None:
    refused = shared.post("/v1/embeddings", **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
