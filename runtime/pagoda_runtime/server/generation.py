"""A client's request on its way from the engine back to the client: its answers, piece by piece."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, SamplingParams
from pagoda_runtime.server import ipc
from pagoda_runtime.server.detok import IncrementalDetokenizer, StopStrings
from pagoda_runtime.server.engine_client import DeadlineError, EngineClient, OutOfMemoryError
from pagoda_runtime.server.meter import RequestMeter
from pagoda_runtime.server.metrics import Metrics

log = logging.getLogger("pagoda.api")


@dataclass(frozen=True)
class TextRules:
    """How a choice's tokens become text. offsets: where each begins is wanted too."""

    stop: Sequence[str] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    offsets: bool = False


@dataclass(slots=True)
class Piece:
    """What a step brought one choice. text may be empty, or less than the tokens stand for, as long
    as what follows decides about it. reason comes with the last piece; stop is the string or token
    that the client asked to stop at. offsets are characters from the answer's beginning.
    """

    choice: Choice
    text: str
    delta: Delta
    reason: FinishReason | None
    stop: str | int | None = None
    offsets: Sequence[int] = ()


class Choice:
    """One answer. prompt is the index of its prompt, cached_tokens how many of that were cached."""

    def __init__(
        self,
        index: int,
        prompt: int,
        prompt_ids: list[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        rules: TextRules,
        eos_token_ids: Sequence[int],
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.params = params
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.reason: FinishReason | None = None
        self._rules = rules
        self._eos_token_ids = eos_token_ids
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, prompt_ids, skip_special_tokens=rules.skip_special_tokens
        )
        self._stops = StopStrings(rules.stop, include=rules.include_stop)
        self._length = 0

    def push(self, delta: Delta) -> Piece:
        """Take what the engine brought."""
        self.completion_tokens += len(delta.token_ids)
        token_ids, ended = delta.token_ids, delta.finish_reason
        stop: str | int | None = None
        if ended is FinishReason.STOP:
            last = token_ids[-1]
            stop = None if last in self._eos_token_ids else last
            if not self._rules.include_stop:
                token_ids = token_ids[:-1]  # It counts, but is not text.
        offsets: list[int] = []
        if self._rules.offsets:
            text = ""
            for token in token_ids:
                offsets.append(self._length + len(text))
                text += self._detokenizer.push([token])
        else:
            text = self._detokenizer.push(token_ids)
        if ended is not None:
            text += self._detokenizer.flush()
        self._length += len(text)
        # The token that ended it begins where the text ends.
        offsets += [self._length] * (len(delta.token_ids) - len(offsets))
        if self._rules.stop and self.completion_tokens > self.params.min_tokens:
            text, found = self._stops.push(text)
            if found is not None:
                ended, stop = FinishReason.STOP, found
            elif ended is not None:
                text += self._stops.flush()
        self.reason = ended
        return Piece(self, text, delta, ended, stop, offsets)


class Generation:
    """Runs the requests of all choices together. A context manager: leaving it ends them in the
    engine too, whether the answer is complete, stopped or not wanted any more.
    """

    def __init__(
        self, engine: EngineClient, metrics: Metrics, *, reply_id: str, choices: Sequence[Choice]
    ) -> None:
        self.choices = choices
        self._engine = engine
        self._metrics = metrics
        self._reply_id = reply_id
        self._arrival = time.monotonic()
        names = [reply_id] if len(choices) == 1 else [f"{reply_id}-{c.index}" for c in choices]
        self._by_id = dict(zip(names, choices, strict=True))
        metrics.n.observe(len(choices) / len({choice.prompt for choice in choices}))
        self._meters = {
            name: RequestMeter(
                metrics,
                choice.params,
                prompt_tokens=len(choice.prompt_ids),
                arrival=self._arrival,
            )
            for name, choice in self._by_id.items()
        }
        self._stream = engine.stream(
            [
                ipc.Submit(name, choice.prompt_ids, choice.params, self._arrival)
                for name, choice in self._by_id.items()
            ]
        )
        self._accepted = False
        self._unfinished = FinishReason.ABORT

    def __enter__(self) -> Generation:
        self._stream.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__()
        if self._accepted:
            self._finished()

    async def accepted(self) -> None:
        """Return when the engine has taken it; raise an EngineError if it does not."""
        await self._stream.accepted()
        self._accepted = True

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of all choices, each ending with one that has a reason; raise an
        EngineError if one cannot be answered.
        """
        running = len(self.choices)
        while running:
            try:
                delta = await self._stream.next()
            except DeadlineError:
                self._unfinished = FinishReason.TIMEOUT
                raise
            except OutOfMemoryError:
                self._unfinished = FinishReason.ERROR
                raise
            choice = self._by_id[delta.id]
            if choice.reason is not None:
                continue  # It was on its way when a stop string ended the choice.
            if delta.cached_tokens is not None:
                choice.cached_tokens = delta.cached_tokens
            self._meters[delta.id].on_delta(delta)
            piece = choice.push(delta)
            if piece.reason is not None:
                running -= 1
                if delta.finish_reason is None and running:
                    self._engine.leave([delta.id])
            yield piece

    def _finished(self) -> None:
        reasons = []
        for name, choice in self._by_id.items():
            reasons.append(choice.reason or self._unfinished)
            self._meters[name].finish(reasons[-1])
        for first in self._first_of_prompts():
            siblings = [c.completion_tokens for c in self.choices if c.prompt == first.prompt]
            self._metrics.longest_answer.observe(max(siblings))
        seconds = time.monotonic() - self._arrival
        log.info(
            "request finished",
            extra={
                "reply_id": self._reply_id,
                "finish_reason": ",".join(dict.fromkeys(reasons)),
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "seconds": round(seconds, 3),
            },
        )

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(c.prompt_ids) for c in self._first_of_prompts())

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were cached before this request."""
        return sum(choice.cached_tokens for choice in self._first_of_prompts())

    def _first_of_prompts(self) -> list[Choice]:
        firsts: dict[int, Choice] = {}
        for choice in self.choices:
            firsts.setdefault(choice.prompt, choice)
        return list(firsts.values())
