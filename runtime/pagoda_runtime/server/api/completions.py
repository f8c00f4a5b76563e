"""/v1/completions: what may be completed, and how the answer is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.engine.step import Sampled
from pagoda_runtime.server.api.reply import BaseReply, Envelope, Usage, Whole, finite, if_set
from pagoda_runtime.server.api.request import (
    NOTHING,
    Count,
    GenerationRequest,
    TokenId,
    doc,
    one_or_several,
)
from pagoda_runtime.server.detok import IncrementalDetokenizer
from pagoda_runtime.server.errors import bad_request, unsupported
from pagoda_runtime.server.generation import Choice, Piece
from pagoda_runtime.server.text import TextModel

# OpenAI's default for this endpoint.
_MAX_TOKENS = 16


class CompletionRequest(GenerationRequest, kw_only=True):
    """POST /v1/completions."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationRequest.refused,
        "suffix": NOTHING,
    }

    prompt: Annotated[
        str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)],
        doc(
            "A text, token ids, or a list of several of either. Choice `i * n + k` is the k-th answer "
            "to prompt i."
        ),
    ]
    max_tokens: Annotated[Count | None, doc("The longest answer; 0 with echo. Default 16.")] = None
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | bool | None,
        doc("Each token's log-probability, and that many of the most likely tokens beside it."),
    ] = None
    echo: Annotated[bool | None, doc("The prompt before the answer, with logprobs too.")] = None
    best_of: Annotated[
        Annotated[int, Meta(ge=1, le=128)] | None,
        doc("Only the same as n: nothing is chosen from."),
    ] = None
    add_special_tokens: Annotated[
        bool | None, doc("Begin a text as the model's tokenizer does. Default true.")
    ] = None

    @property
    def answer_limit(self) -> int | None:
        """The most answer tokens."""
        return _MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """False is a client's way to say none, true to say that of the token alone."""
        if isinstance(self.logprobs, bool):
            return 0 if self.logprobs else None
        return self.logprobs

    @property
    def prompt_logprobs(self) -> int | None:
        """Without a token to sample the engine has to be asked for something."""
        if not self.echo:
            return None
        return 0 if self.num_logprobs is None and self.max_tokens == 0 else self.num_logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        return one_or_several(self.prompt, "prompt")

    def check(self) -> None:
        """ApiError 400 for fields that contradict each other."""
        if self.max_tokens == 0 and not self.echo:
            raise bad_request("max_tokens must be at least 1, or 0 with echo", "max_tokens")
        if self.best_of not in (None, self.n or 1):
            raise unsupported("best_of", "other than n")


class CompletionLogprobs(msgspec.Struct):
    """Lists with an entry per token: the one that ended it included, the prompt's before them with
    echo. The first token of a prompt has nothing before it, so no logprob. top_logprobs has the token
    itself too. text_offset: characters from the beginning of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One answer, or in a stream a part of it. stop_reason: the string or token of `stop` or
    `stop_token_ids` that ended it.
    """

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Envelope, kw_only=True):
    """The answer in one piece, or one event of a stream."""

    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class Echo:
    """A prompt as it is repeated before its answers."""

    def __init__(
        self, text: TextModel, prompt: str | list[int], ids: list[int], skip: bool
    ) -> None:
        detokenizer = IncrementalDetokenizer(text.tokenizer, skip_special_tokens=skip)
        self.offsets: list[int] = []
        decoded = ""
        for token in ids:
            self.offsets.append(len(decoded))
            decoded += detokenizer.push([token])
        self.ids = ids
        self.text = prompt if isinstance(prompt, str) else decoded + detokenizer.flush()


class CompletionReply(BaseReply):
    """`text_completion`, in one piece or in chunks. echoes: by prompt, empty if not asked for."""

    prefix = "cmpl"

    def __init__(self, request: CompletionRequest, echoes: Sequence[Echo], *args: Any) -> None:
        super().__init__(*args, tokens_as_ids=bool(request.return_tokens_as_token_ids))
        self._request = request
        self._echoes = echoes
        self._begun: set[int] = set()

    def opening(self, choices: Sequence[Choice]) -> Iterable[Completion]:
        """Nothing."""
        return ()

    def chunks(self, piece: Piece, usage: Usage | UnsetType | None) -> Iterable[Completion]:
        """The prompt before the first piece if asked for, the text, and an empty one at the end."""
        choice = piece.choice
        first = choice.index not in self._begun
        if first:
            self._begun.add(choice.index)
            if self._echoes:
                part = self._choice(choice.index, self._echoes[choice.prompt].text)
                part.logprobs = self._logprobs(choice, piece.delta.prompt_logprobs, (), ())
                yield self._envelope([part], usage)
        token_ids = if_set(self._request.return_token_ids, piece.delta.token_ids)
        logprobs = self._logprobs(choice, (), piece.delta.logprobs, piece.offsets)
        if piece.text or token_ids or logprobs:
            part = self._choice(choice.index, piece.text)
            part.logprobs, part.token_ids = logprobs, token_ids
            if first:
                part.prompt_token_ids = if_set(self._request.return_token_ids, choice.prompt_ids)
            yield self._envelope([part], usage)
        if piece.reason is not None:
            part = self._choice(choice.index, "")
            part.finish_reason, part.stop_reason = piece.reason, piece.stop
            yield self._envelope([part], usage)

    def whole(self, answers: Sequence[Whole], usage: Usage) -> Completion:
        """The whole texts."""
        ids = self._request.return_token_ids
        choices = []
        for answer in answers:
            choice = answer.choice
            echo = self._echoes[choice.prompt].text if self._echoes else ""
            part = self._choice(choice.index, echo + answer.text)
            part.logprobs = self._logprobs(
                choice, answer.prompt_logprobs, answer.logprobs, answer.offsets
            )
            part.finish_reason, part.stop_reason = answer.reason, answer.stop
            part.token_ids = if_set(ids, answer.token_ids)
            part.prompt_token_ids = if_set(ids, choice.prompt_ids)
            choices.append(part)
        return self._envelope(choices, usage)

    def usage_chunk(self, usage: Usage) -> Completion:
        """No choices, only usage."""
        return self._envelope([], usage)

    def _choice(self, index: int, text: str) -> CompletionChoice:
        return CompletionChoice(index=index, text=text)

    def _envelope(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None
    ) -> Completion:
        return Completion(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _logprobs(
        self,
        choice: Choice,
        prompt: Sequence[Sampled | None],
        answer: Sequence[Sampled],
        offsets: Sequence[int],
    ) -> CompletionLogprobs | None:
        if self._request.num_logprobs is None or not (prompt or answer):
            return None
        result = CompletionLogprobs([], [], [], [])
        base = 0
        if self._echoes:
            echo = self._echoes[choice.prompt]
            base = len(echo.text)
            for token, offset, one in zip(echo.ids, echo.offsets, prompt, strict=False):
                self._append(result, token, one, offset)
        for one, offset in zip(answer, offsets, strict=True):
            self._append(result, one.token, one, base + offset)
        return result

    def _append(
        self, result: CompletionLogprobs, token: int, one: Sampled | None, offset: int
    ) -> None:
        result.tokens.append(self.name_of(token))
        result.token_logprobs.append(None if one is None else finite(one.logprob))
        result.text_offset.append(offset)
        if one is None:
            result.top_logprobs.append(None)
            return
        likely = {self.name_of(t): finite(logprob) for t, logprob in one.top_logprobs}
        likely.setdefault(self.name_of(token), finite(one.logprob))
        result.top_logprobs.append(likely)
