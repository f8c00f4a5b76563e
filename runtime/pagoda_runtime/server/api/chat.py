"""/v1/chat/completions: what a chat may ask for, and how the answer is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.engine.step import Sampled
from pagoda_runtime.server.api.reply import BaseReply, Envelope, Usage, Whole, finite, if_set
from pagoda_runtime.server.api.request import NOTHING, Count, GenerationRequest, doc
from pagoda_runtime.server.errors import bad_request, unsupported
from pagoda_runtime.server.generation import Choice, Piece
from pagoda_runtime.server.text import ChatTemplateError, TextModel


class ContentPart(msgspec.Struct):
    """One part of a message's content; only those of type text are understood."""

    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct):
    """A function an assistant called; arguments is JSON."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(msgspec.Struct):
    """One call in an assistant's message."""

    function: FunctionCall
    id: str | None = None
    type: str = "function"


class Message(msgspec.Struct):
    """One message of a chat, as the model's template gets it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The form chat templates expect: content as one string, arguments as an object."""
        content = self.content or ""
        if not isinstance(content, str):
            for part in content:
                if part.type != "text" or part.text is None:
                    raise bad_request(f"content of type {part.type} is not supported", "messages")
            content = "".join(part.text or "" for part in content)
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [_call_for_template(call) for call in self.tool_calls]
        return message


def _call_for_template(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            message = f"the arguments of a call of {call.function.name!r} are not JSON"
            raise bad_request(message, "messages") from error
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


# Fields that decide about a chat's prompt; /tokenize has them too.
Messages = Annotated[
    list[Message],
    Meta(min_length=1),
    doc("The chat so far. Content is a string, or parts of type text."),
]
AddGenerationPrompt = Annotated[
    bool | None, doc("End the prompt where the assistant's turn begins. Default true.")
]
ContinueFinalMessage = Annotated[
    bool | None, doc("End it inside the last message, which the answer then continues.")
]
TemplateVariables = Annotated[
    dict[str, Any] | None, doc("More names for the model's template (`enable_thinking`, …).")
]


class Chat(Protocol):
    """A request with these fields."""

    @property
    def messages(self) -> list[Message] | None: ...  # noqa: D102
    @property
    def add_generation_prompt(self) -> bool | None: ...  # noqa: D102
    @property
    def continue_final_message(self) -> bool | None: ...  # noqa: D102
    @property
    def chat_template_kwargs(self) -> dict[str, Any] | None: ...  # noqa: D102


def chat_prompt(chat: Chat, text: TextModel) -> str:
    """The chat as the model's template writes it; ApiError 400 if it does not."""
    if chat.add_generation_prompt and chat.continue_final_message:
        raise bad_request(
            "continue_final_message excludes add_generation_prompt", "continue_final_message"
        )
    try:
        return text.render_chat(
            [message.for_template() for message in chat.messages or ()],
            add_generation_prompt=chat.add_generation_prompt is not False,
            continue_final_message=bool(chat.continue_final_message),
            variables=chat.chat_template_kwargs,
        )
    except ChatTemplateError as error:
        raise bad_request(str(error), "messages") from error


class ChatRequest(GenerationRequest, kw_only=True):
    """POST /v1/chat/completions."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationRequest.refused,
        "functions": NOTHING,
        "function_call": ("none", "auto", *NOTHING),
        "modalities": (["text"], *NOTHING),
        "audio": NOTHING,
        "web_search_options": (),
        "chat_template": NOTHING,
        "documents": NOTHING,
        "echo": NOTHING,
        "best_of": (1,),
    }

    messages: Messages
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None
    chat_template_kwargs: TemplateVariables = None
    max_completion_tokens: Annotated[
        Count | None, doc("The newer name of max_tokens, and wins. Default: as many as fit.")
    ] = None
    tools: Annotated[
        list[Any] | None, doc("Not supported: refused, unless it is empty or tool_choice is none.")
    ] = None
    tool_choice: Annotated[
        str | dict[str, Any] | None, doc("`none` and `auto`; others need tools.")
    ] = None
    logprobs: Annotated[bool | None, doc("Each token's log-probability.")] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        doc("That many of the most likely tokens beside it. Needs logprobs."),
    ] = None
    add_special_tokens: Annotated[
        bool | None,
        doc("Begin the prompt as a completion's; templates do that themselves. Default false."),
    ] = None

    @property
    def answer_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name and wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """As asked for by two fields."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """ApiError 400 for fields that contradict each other, and for tools."""
        if self.tool_choice not in (None, "none", "auto", ""):
            raise unsupported("tool_choice", "other than none and auto")
        if self.tools and self.tool_choice != "none":
            raise unsupported("tools")
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
        if self.answer_limit == 0:
            raise bad_request("max_tokens must be at least 1", "max_tokens")


class TopLogprob(msgspec.Struct):
    """A likely token. bytes: those it stands for; together tokens make whole characters."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """A token of the answer, and what else was likely in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """One entry per token of the answer, the one that ended it included."""

    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(msgspec.Struct):
    """The answer."""

    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer. stop_reason: the string or token of `stop` or `stop_token_ids` that ended it."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Envelope, kw_only=True):
    """The answer in one piece."""

    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET


class Delta(msgspec.Struct, omit_defaults=True):
    """What is new in a chunk."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, kw_only=True):
    """A choice's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletionChunk(Envelope, kw_only=True):
    """One event of a stream."""

    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatReply(BaseReply):
    """`chat.completion` and its chunks."""

    prefix = "chatcmpl"

    def __init__(self, request: ChatRequest, *args: Any) -> None:
        super().__init__(*args, tokens_as_ids=bool(request.return_tokens_as_token_ids))
        self._request = request
        self._usage: UnsetType | None = None if request.include_usage else UNSET

    def opening(self, choices: Sequence[Choice]) -> Iterable[ChatCompletionChunk]:
        """The chunks with the role."""
        for choice in choices:
            chunk = self._chunk(choice.index, Delta("assistant", ""), self._usage)
            chunk.prompt_token_ids = if_set(self._request.return_token_ids, choice.prompt_ids)
            yield chunk

    def chunks(
        self, piece: Piece, usage: Usage | UnsetType | None
    ) -> Iterable[ChatCompletionChunk]:
        """A delta with the text, if there is any, and an empty one at the end."""
        index = piece.choice.index
        token_ids = if_set(self._request.return_token_ids, piece.delta.token_ids)
        logprobs = self._logprobs(piece.delta.logprobs)
        if piece.text or token_ids or logprobs:
            chunk = self._chunk(index, Delta(content=piece.text), usage)
            chunk.choices[0].logprobs = logprobs
            chunk.choices[0].token_ids = token_ids
            yield chunk
        if piece.reason is not None:
            chunk = self._chunk(index, Delta(), usage)
            chunk.choices[0].finish_reason = piece.reason
            chunk.choices[0].stop_reason = piece.stop
            yield chunk

    def whole(self, answers: Sequence[Whole], usage: Usage) -> ChatCompletion:
        """The assistant's messages."""
        ids = self._request.return_token_ids
        choices = [
            ChatChoice(
                index=answer.choice.index,
                message=AssistantMessage("assistant", answer.text),
                logprobs=self._logprobs(answer.logprobs),
                finish_reason=answer.reason,
                stop_reason=answer.stop,
                token_ids=if_set(ids, answer.token_ids),
            )
            for answer in answers
        ]
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=usage,
            prompt_token_ids=if_set(ids, answers[0].choice.prompt_ids),
        )

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        """No choices, only usage."""
        return self._envelope([], usage)

    def _chunk(
        self, index: int, delta: Delta, usage: Usage | UnsetType | None
    ) -> ChatCompletionChunk:
        return self._envelope([ChatChunkChoice(index=index, delta=delta)], usage)

    def _envelope(
        self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _logprobs(self, sampled: Sequence[Sampled]) -> ChatLogprobs | None:
        if not sampled:
            return None
        return ChatLogprobs(
            [
                TokenLogprob(
                    *self._entry(one.token, one.logprob),
                    [TopLogprob(*self._entry(*likely)) for likely in one.top_logprobs],
                )
                for one in sampled
            ]
        )

    def _entry(self, token: int, logprob: float | None) -> tuple[str, float, list[int]]:
        return self.name_of(token), finite(logprob), list(self.tokens.bytes_of(token))
