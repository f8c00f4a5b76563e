"""OpenAI's requests and replies: what is read, what is refused, what is sent."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from pagoda_runtime.engine.request import FinishReason, SamplingParams
from pagoda_runtime.server.chat import SamplingDefaults
from pagoda_runtime.server.errors import ApiError, bad_request

# Fields that would change the answer and are not supported, with the values that ask for nothing.
# Everything else that is unknown (user, metadata, store, …) is ignored, as OpenAI's own servers do.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),  # such as Qwen3's enable_thinking
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool = False


class _Generation(msgspec.Struct, kw_only=True):
    """What both kinds of request share; None means the model's default."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        """True if a stream shall end with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def answer_limit(self) -> int | None:
        """The most answer tokens, None for as many as fit."""
        return self.max_tokens


class CompletionRequest(_Generation, kw_only=True):
    """POST /v1/completions. prompt: a string, token ids, or a list with one of these."""

    prompt: str | list[Any]

    @property
    def answer_limit(self) -> int | None:
        """OpenAI's default for this endpoint is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class ContentPart(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The form chat templates expect: content as one string."""
        content = self.content or ""
        if not isinstance(content, str):
            if unknown := [part.type for part in content if part.type != "text"]:
                raise bad_request(f"content of type {unknown[0]} is not supported", "messages")
            content = "".join(part.text or "" for part in content)
        message = {"role": self.role, "content": content}
        return message | ({"name": self.name} if self.name is not None else {})


class ChatRequest(_Generation, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = None

    @property
    def answer_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name and wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


R = TypeVar("R", bound=_Generation)


def parse(body: bytes, kind: type[R]) -> R:
    """Read a request body; ApiError 400 names the field that is wrong or not supported."""
    try:
        raw = msgspec.json.decode(body)
        request = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        where = re.search(r"\$\.(\w+)", str(error)) or re.search(
            r"required field `(\w+)`", str(error)
        )
        raise bad_request(str(error), where.group(1) if where else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the request body is not JSON: {error}") from error
    for name, harmless in _UNSUPPORTED.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, allowed) for allowed in harmless):
            raise bad_request(
                f"{name} is not supported by this server", name, "unsupported_parameter"
            )
    return request


def _same(value: Any, allowed: Any) -> bool:
    # In Python 0 == False, but `logprobs: 0` asks for something and `logprobs: false` does not.
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)


def check_model(request: _Generation, names: Sequence[str]) -> str:
    """The served name the request means; ApiError 404 if there is none."""
    if request.model is None:
        return names[0]
    if request.model not in names:
        raise ApiError(
            404,
            f"the model {request.model!r} does not exist",
            param="model",
            code="model_not_found",
        )
    return request.model


def check_token_ids(prompt: Sequence[Any], vocab_size: int) -> list[int]:
    """A prompt of token ids; ApiError 400 if it is anything else."""
    for token in prompt:
        if not isinstance(token, int) or isinstance(token, bool):
            raise bad_request("prompt must be a string or a list of token ids", "prompt")
        if not 0 <= token < vocab_size:
            raise bad_request(
                f"token id {token} is outside the vocabulary of {vocab_size}", "prompt"
            )
    return list(prompt)


def sampling_params(
    request: _Generation,
    prompt_length: int,
    *,
    max_model_len: int,
    defaults: SamplingDefaults,
    eos_token_ids: Sequence[int],
) -> SamplingParams:
    """Check the numbers and fill in what was left out; ApiError 400 for what cannot work."""
    if prompt_length == 0:
        raise bad_request("the prompt is empty")
    limit = request.answer_limit
    if limit is not None and limit < 1:
        raise bad_request("max_tokens must be at least 1", "max_tokens")
    wanted = prompt_length + (limit or 1)
    if wanted > max_model_len:
        raise bad_request(
            f"this model's context length is {max_model_len} tokens, but {wanted} were requested: "
            f"{prompt_length} in the prompt and {limit or 'at least 1'} for the answer",
            "messages" if isinstance(request, ChatRequest) else "prompt",
            "context_length_exceeded",
        )
    temperature = defaults.temperature if request.temperature is None else request.temperature
    top_p = defaults.top_p if request.top_p is None else request.top_p
    top_k = defaults.top_k if request.top_k is None else request.top_k
    # Written so that NaN fails too.
    if not 0.0 <= temperature <= 2.0:
        raise bad_request("temperature must be between 0 and 2", "temperature")
    if not 0.0 < top_p <= 1.0:
        raise bad_request("top_p must be above 0 and at most 1", "top_p")
    if top_k < -1:
        raise bad_request("top_k must be positive, or 0 or -1 for off", "top_k")
    if any(not stop for stop in request.stop_strings):
        raise bad_request("a stop string must not be empty", "stop")
    return SamplingParams(
        max_tokens=max_model_len - prompt_length if limit is None else limit,
        temperature=temperature,
        top_p=top_p,
        top_k=max(0, top_k),
        seed=request.seed,
        stop_token_ids=() if request.ignore_eos else tuple(eos_token_ids),
    )


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Reply(Protocol):
    """How one endpoint writes its answer. `id` and `created` stay the same through a stream."""

    id: str

    def opening(self) -> list[dict[str, Any]]:
        """Chunks sent before any text."""

    def chunk(self, text: str, reason: FinishReason | None) -> dict[str, Any]:
        """One chunk of a stream; reason is set in the last one only."""

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        """The answer in one piece, without usage."""

    def usage_chunk(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """The chunk after the last one, if the client asked for usage."""


class _Reply:
    prefix: ClassVar[str]
    chunk_object: ClassVar[str]
    whole_object: ClassVar[str]

    def __init__(self, model: str) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def usage_chunk(self, usage: Mapping[str, int]) -> dict[str, Any]:
        return self._envelope(self.chunk_object, []) | {"usage": dict(usage)}


class ChatReply(_Reply):
    """`chat.completion` and its chunks."""

    prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def opening(self) -> list[dict[str, Any]]:
        """The chunk with the role."""
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def chunk(self, text: str, reason: FinishReason | None) -> dict[str, Any]:
        """A delta with the text; the last one is empty when there is none."""
        return self._chunk({"content": text} if text else {}, reason)

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        """The assistant's message."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._envelope(self.whole_object, [choice])

    def _chunk(self, delta: dict[str, str], reason: FinishReason | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._envelope(self.chunk_object, [choice])


class CompletionReply(_Reply):
    """`text_completion`, in one piece or in chunks."""

    prefix = "cmpl"
    chunk_object = "text_completion"
    whole_object = "text_completion"

    def opening(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def chunk(self, text: str, reason: FinishReason | None) -> dict[str, Any]:
        """A piece of the text."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return self._envelope(self.chunk_object, [choice])

    def whole(self, text: str, reason: FinishReason) -> dict[str, Any]:
        """The whole text."""
        return self.chunk(text, reason)
