"""What the answers of chats and completions have in common."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.engine.step import Sampled
from pagoda_runtime.server.generation import Choice, Generation, Piece
from pagoda_runtime.server.token_text import TokenText

# JSON has no infinity; what no sampling could ever choose is told as this.
_LEAST_LOGPROB = -9999.0


class PromptTokensDetails(msgspec.Struct):
    """cached_tokens: those of the prompts that the prefix cache had."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of a request; a prompt counts once however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Envelope(msgspec.Struct, kw_only=True):
    """What every object of an answer begins with; the same in all chunks of a stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None


class Whole:
    """One choice's pieces put together, for an answer that is not streamed."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[Sampled] = []
        self.prompt_logprobs: Sequence[Sampled | None] = ()
        self.offsets: list[int] = []
        self.reason: FinishReason = FinishReason.ABORT
        self.stop: str | int | None = None

    def add(self, piece: Piece) -> None:
        """The next piece."""
        self.text += piece.text
        self.token_ids += piece.delta.token_ids
        self.logprobs += piece.delta.logprobs
        self.offsets += piece.offsets
        if piece.delta.prompt_logprobs:
            self.prompt_logprobs = piece.delta.prompt_logprobs
        if piece.reason is not None:
            self.reason, self.stop = piece.reason, piece.stop


class Reply(Protocol):
    """How one endpoint writes its answer. `id` and `created` stay the same through a stream."""

    id: str

    def opening(self, choices: Sequence[Choice]) -> Iterable[msgspec.Struct]:
        """Chunks sent before any text."""

    def chunks(self, piece: Piece, usage: Usage | UnsetType | None) -> Iterable[msgspec.Struct]:
        """The chunks of a stream that a piece makes."""

    def whole(self, answers: Sequence[Whole], usage: Usage) -> msgspec.Struct:
        """The answer in one piece."""

    def usage_chunk(self, usage: Usage) -> msgspec.Struct:
        """The chunk after the last one, if the client asked for usage."""


class BaseReply:
    """Ids and names."""

    prefix: ClassVar[str]

    def __init__(
        self, model: str, fingerprint: str, tokens: TokenText, *, tokens_as_ids: bool
    ) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.model = model
        self.created = int(time.time())
        self.fingerprint = fingerprint
        self.tokens = tokens
        self._tokens_as_ids = tokens_as_ids

    def name_of(self, token: int) -> str:
        """What a token is called in logprobs."""
        return f"token_id:{token}" if self._tokens_as_ids else self.tokens.text_of(token)


def finite(logprob: float | None) -> float:
    """A logprob as JSON can say it."""
    return max(_LEAST_LOGPROB, _LEAST_LOGPROB if logprob is None else logprob)


def usage_of(generation: Generation) -> Usage:
    """The usage so far."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    details = PromptTokensDetails(generation.cached_tokens)
    return Usage(prompt, completion, prompt + completion, details)


def if_set(wanted: bool | None, value: list[int]) -> list[int] | UnsetType:
    """A field that is there only if it was asked for."""
    return value if wanted else UNSET
