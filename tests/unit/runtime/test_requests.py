"""What requests are understood, what is refused, and with which words."""

from typing import Any

import msgspec
import pytest
from pagoda_runtime.server.api import request as requests
from pagoda_runtime.server.api.chat import ChatRequest
from pagoda_runtime.server.api.completions import CompletionRequest
from pagoda_runtime.server.api.sampling import ModelLimits, sampling_params
from pagoda_runtime.server.errors import ApiError
from pagoda_runtime.server.text import SamplingDefaults

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"prompt": "hi"}
GREEDY = SamplingDefaults(temperature=0.6, top_p=0.9, top_k=20)


def chat(**fields: Any) -> ChatRequest:
    request = requests.parse(msgspec.json.encode(CHAT | fields), ChatRequest)
    request.check()
    return request


def completion(**fields: Any) -> CompletionRequest:
    request = requests.parse(msgspec.json.encode(COMPLETION | fields), CompletionRequest)
    request.check()
    return request


def params(
    request: ChatRequest | CompletionRequest,
    prompt: int = 10,
    defaults: SamplingDefaults | None = None,
) -> Any:
    model = ModelLimits(100, 50, defaults or SamplingDefaults(), (7,))
    return sampling_params(request, prompt, model, prompt_param="prompt")


def refusal(call: Any, *args: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*args, **fields)
    return caught.value


# --- what is refused, and what is ignored -------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (chat, "tools", [{"type": "function"}]),
        (chat, "tool_choice", "required"),
        (chat, "tool_choice", {"type": "function", "function": {"name": "f"}}),
        (chat, "functions", [{"name": "f"}]),
        (chat, "response_format", {"type": "json_object"}),
        (completion, "response_format", {"type": "json_schema"}),
        (chat, "modalities", ["text", "audio"]),
        (chat, "audio", {"voice": "alloy"}),
        (chat, "structured_outputs", {"regex": "a"}),
        (completion, "guided_json", {"type": "object"}),
        (chat, "chat_template", "{{ messages }}"),
        (chat, "best_of", 2),
        (chat, "echo", True),
        (chat, "prompt_logprobs", 0),
        (completion, "suffix", "x"),
        (completion, "best_of", 3),
        (completion, "use_beam_search", True),
        (completion, "lora_request", {"name": "a"}),
    ],
)
def test_what_would_change_the_answer_is_refused(make: Any, field: str, value: Any) -> None:
    error = refusal(make, **{field: value})
    assert (error.status, error.param, error.code) == (400, field, "unsupported_parameter")
    assert field in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {
            "n": None,
            "best_of": 1,
            "echo": False,
            "suffix": None,
            "logprobs": None,
            "logit_bias": {},
        },
        {"presence_penalty": 0.0, "frequency_penalty": 0, "response_format": {"type": "text"}},
        {
            "user": "me",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "reasoning_effort": "low",
            "prediction": {"type": "content", "content": "x"},
            "unheard_of": [1],
        },
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
        {"tools": None, "tool_choice": "none", "structured_outputs": {}, "audio": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    completion(**fields)
    chat(**fields)


def test_tools_with_tool_choice_none_are_not_asked_for() -> None:
    chat(tools=[{"type": "function"}], tool_choice="none")


def test_null_is_the_same_as_left_out() -> None:
    names = [f.name for f in msgspec.structs.fields(ChatRequest) if not f.required]
    assert chat(**dict.fromkeys(names)) == chat()
    names = [f.name for f in msgspec.structs.fields(CompletionRequest) if not f.required]
    assert completion(**dict.fromkeys(names)) == completion()


# --- types and ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": ""}]}, "messages"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 2**40}, "max_completion_tokens"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"priority": 2**70}, "priority"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options"),
    ],
)
def test_wrong_values_name_the_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(chat, **fields)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", "messages"),
        (b"", None),
        (b"\xff", None),
        (b'{"messages": NaN}', None),
        (b'{"temperature": Infinity}', None),
        (b'{"temperature": 1e999}', None),
        (b'{"messages": [{"role": "user", "content": "\\ud800 "}]}', None),
        (b'{"messages": [{"role": "user", "content": "\xc3("}]}', None),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001, None),
    ],
)
def test_bodies_that_are_no_request(body: bytes, param: str | None) -> None:
    error = refusal(requests.parse, body, ChatRequest)
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
    assert refusal(params, completion(min_tokens=17)).param == "min_tokens"


def test_defaults_come_from_the_model_and_ignore_eos_from_the_request() -> None:
    got = params(chat(), defaults=GREEDY)
    assert (got.temperature, got.top_p, got.top_k, got.stop_token_ids) == (0.6, 0.9, 20, (7,))
    request = chat(temperature=0, top_p=1, top_k=-1, ignore_eos=True, stop_token_ids=[9, 3])
    got = params(request, defaults=GREEDY)
    assert (got.temperature, got.top_p, got.top_k, got.stop_token_ids) == (0.0, 1.0, 0, (3, 9))
    assert params(chat(stop_token_ids=[9])).stop_token_ids == (7, 9)


def test_every_parameter_arrives() -> None:
    got = params(
        completion(
            min_p=0.1,
            presence_penalty=0.2,
            frequency_penalty=-0.3,
            repetition_penalty=1.4,
            logit_bias={"5": 6, "7": -8.5},
            seed=9,
            min_tokens=10,
            logprobs=2,
            priority=-11,
            cache_salt="s",
        )
    )
    assert (got.min_p, got.presence_penalty, got.frequency_penalty) == (0.1, 0.2, -0.3)
    assert (got.repetition_penalty, got.seed, got.min_tokens) == (1.4, 9, 10)
    assert dict(got.logit_bias) == {5: 6.0, 7: -8.5}
    assert (got.logprobs, got.priority, got.cache_salt) == (2, -11, "s")


@pytest.mark.parametrize("token", ["50", "-1", "x", "1.0", "", "9" * 5000, "٣"])
def test_biases_are_for_tokens(token: str) -> None:
    assert refusal(params, chat(logit_bias={token: 1})).param == "logit_bias"


def test_stop_tokens_are_checked() -> None:
    assert refusal(params, chat(stop_token_ids=[50])).param == "stop_token_ids"


@pytest.mark.parametrize(
    ("make", "fields", "wanted"),
    [
        (chat, {}, None),
        (chat, {"logprobs": False}, None),
        (chat, {"logprobs": True}, 0),
        (chat, {"logprobs": True, "top_logprobs": 20}, 20),
        (completion, {}, None),
        (completion, {"logprobs": False}, None),
        (completion, {"logprobs": 0}, 0),
        (completion, {"logprobs": 5}, 5),
    ],
)
def test_logprobs(make: Any, fields: dict[str, Any], wanted: int | None) -> None:
    assert params(make(**fields)).logprobs == wanted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"echo": True}, None),
        ({"logprobs": 3}, None),
        ({"echo": True, "logprobs": 3}, 3),
        ({"echo": True, "max_tokens": 0}, 0),
        ({"echo": True, "max_tokens": 0, "logprobs": 1}, 1),
    ],
)
def test_logprobs_of_the_prompt_are_for_its_echo(fields: dict[str, Any], wanted: Any) -> None:
    assert completion(**fields).prompt_logprobs == wanted


def test_nothing_to_generate_needs_an_echo() -> None:
    assert refusal(completion, max_tokens=0).param == "max_tokens"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_shapes_of_prompts(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "prompt", [[], [1, "a"], [True], [-1], [1.5], ["a", [1]], [[1], 2], {}, [None], [["a"]]]
)
def test_other_prompts(prompt: Any) -> None:
    assert refusal(lambda: completion(prompt=prompt).prompts).param == "prompt"


def test_tokens_are_those_of_the_vocabulary() -> None:
    requests.check_token_ids([0, 31], 32, "prompt")
    assert refusal(requests.check_token_ids, [0, 32], 32, "prompt").param == "prompt"


def test_model_names() -> None:
    assert requests.check_model(chat(), ["a", "b"]) == "a"
    assert requests.check_model(chat(model="b"), ["a", "b"]) == "b"
    error = refusal(requests.check_model, chat(model="c"), ["a", "b"])
    assert (error.status, error.code) == (404, "model_not_found")


def test_the_shorter_deadline_counts() -> None:
    soon = requests.deadline(chat(timeout_ms=1000), "999000")
    later = requests.deadline(chat(timeout_ms=999000), None)
    assert soon is not None
    assert later is not None
    assert later - soon > 900
    assert requests.deadline(chat(), None) is None
    for header in ("0", "-1", "1.5", "soon", "", "9" * 20):
        assert refusal(requests.deadline, chat(), header).status == 400


# --- messages -----------------------------------------------------------------------------------


def test_parts_of_a_message_become_one_string() -> None:
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    assert chat(messages=[message]).messages[0].for_template() == {"role": "user", "content": "ab"}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    assert refusal(chat(messages=[image]).messages[0].for_template).param == "messages"


def test_calls_and_their_results_go_to_the_template() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "2"},
    ]
    made, result = (message.for_template() for message in chat(messages=messages).messages)
    function = {"name": "f", "arguments": {"a": 1}}
    assert made["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert result == {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "2"}
    call["function"] = {"name": "f", "arguments": "{"}
    broken = chat(messages=messages).messages[0]
    assert refusal(broken.for_template).param == "messages"
