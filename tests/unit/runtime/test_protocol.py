"""What requests are understood, what is refused, and with which words."""

from typing import Any

import msgspec
import pytest
from pagoda_runtime.server import protocol
from pagoda_runtime.server.chat import SamplingDefaults
from pagoda_runtime.server.errors import ApiError
from pagoda_runtime.server.protocol import ChatRequest, CompletionRequest

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"prompt": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return protocol.parse(msgspec.json.encode(CHAT | fields), ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return protocol.parse(msgspec.json.encode(COMPLETION | fields), CompletionRequest)


def params(request: ChatRequest | CompletionRequest, prompt: int = 10, **options: Any) -> Any:
    defaults = {"max_model_len": 100, "defaults": SamplingDefaults(), "eos_token_ids": (7,)}
    return protocol.sampling_params(request, prompt, **(defaults | options))


def refusal(call: Any, *args: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*args, **fields)
    assert caught.value.body()["error"].keys() == {"message", "type", "param", "code"}
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("logprobs", 0),  # For /v1/completions this asks for the chosen token's.
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"1": 5}),
        ("best_of", 3),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("echo", True),
        ("suffix", "x"),
        ("min_p", 0.1),
        ("continue_final_message", True),
    ],
)
def test_what_would_change_the_answer_is_refused(field: str, value: Any) -> None:
    error = refusal(completion, **{field: value})
    assert (error.status, error.param, error.code) == (400, field, "unsupported_parameter")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": None, "logit_bias": {}},
        {"presence_penalty": 0.0, "frequency_penalty": 0, "response_format": {"type": "text"}},
        {
            "user": "me",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "unheard_of": [1],
        },
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    completion(**fields)
    chat(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"max_tokens": "5"}, "max_tokens"), ({"messages": "hi"}, "messages"), ({"stop": 3}, "stop")],
)
def test_wrong_types_name_the_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(chat, **fields)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"[]", None), (b"{}", "messages"), (b"", None), (b"\xff", None)],
)
def test_bodies_that_are_no_request(body: bytes, param: str | None) -> None:
    error = refusal(protocol.parse, body, ChatRequest)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop"),
    ],
)
def test_numbers_out_of_range(fields: dict[str, Any], param: str) -> None:
    error = refusal(params, chat(**fields))
    assert (error.status, error.param) == (400, param)


def test_length_limits() -> None:
    assert params(chat()).max_tokens == 90, "as much as fits"
    assert params(completion()).max_tokens == 16, "OpenAI's default"
    assert params(chat(max_tokens=90)).max_tokens == 90
    assert params(chat(max_tokens=5, max_completion_tokens=6)).max_tokens == 6
    for request, prompt in ((chat(max_tokens=91), 10), (chat(), 100), (completion(), 85)):
        error = refusal(params, request, prompt)
        assert (error.status, error.code) == (400, "context_length_exceeded")
    assert refusal(params, completion(), 0).status == 400


def test_defaults_come_from_the_model_and_ignore_eos_from_the_request() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_p=0.9, top_k=20)
    got = params(chat(), defaults=defaults)
    assert (got.temperature, got.top_p, got.top_k, got.stop_token_ids) == (0.6, 0.9, 20, (7,))
    got = params(chat(temperature=0, top_p=1, top_k=-1, ignore_eos=True), defaults=defaults)
    assert (got.temperature, got.top_p, got.top_k, got.stop_token_ids) == (0.0, 1.0, 0, ())


def test_model_names() -> None:
    assert protocol.check_model(chat(), ["a", "b"]) == "a"
    assert protocol.check_model(chat(model="b"), ["a", "b"]) == "b"
    error = refusal(protocol.check_model, chat(model="c"), ["a", "b"])
    assert (error.status, error.code) == (404, "model_not_found")


@pytest.mark.parametrize("ids", [[1, "a"], [True], [-1], [32], [1.5]])
def test_token_ids_are_checked(ids: list[Any]) -> None:
    assert refusal(protocol.check_token_ids, ids, 32).param == "prompt"
    assert protocol.check_token_ids([0, 31], 32) == [0, 31]


def test_parts_of_a_message_become_one_string() -> None:
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    assert chat(messages=[message]).messages[0].for_template() == {"role": "user", "content": "ab"}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    assert refusal(chat(messages=[image]).messages[0].for_template).param == "messages"
