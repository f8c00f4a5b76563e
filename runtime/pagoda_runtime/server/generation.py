"""One answer on its way from the engine to the client: text, end, measurements."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from tokenizers import Tokenizer

from pagoda_runtime.engine.output import Delta
from pagoda_runtime.engine.request import FinishReason, SamplingParams
from pagoda_runtime.server.detok import IncrementalDetokenizer, StopStrings
from pagoda_runtime.server.engine_client import DeadlineError, EngineClient, OutOfMemoryError
from pagoda_runtime.server.meter import RequestMeter
from pagoda_runtime.server.metrics import Metrics

log = logging.getLogger("pagoda.api")


class Generation:
    """Runs one request. Ends in the engine too, whether the answer is complete, stopped or not
    wanted any more.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        metrics: Metrics,
        *,
        request_id: str,
        prompt_ids: list[int],
        params: SamplingParams,
        stop: Sequence[str],
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._id = request_id
        self._prompt_ids = prompt_ids
        self._params = params
        self._stop = stop
        metrics.n.observe(1)
        self._meter = RequestMeter(
            metrics, params, prompt_tokens=len(prompt_ids), arrival=time.monotonic()
        )

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._prompt_ids)

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far."""
        return self._meter.completion_tokens

    async def pieces(self) -> AsyncGenerator[tuple[str, FinishReason | None], None]:
        """Yield pieces of text, possibly empty; the last one comes with the reason of the end."""
        text = _AnswerText(self._tokenizer, self._prompt_ids, self._stop)
        reason: FinishReason | None = None
        try:
            async with aclosing(
                self._engine.generate(self._id, self._prompt_ids, self._params)
            ) as deltas:
                async for delta in deltas:
                    self._meter.on_delta(delta)
                    piece, reason = text.push(delta)
                    yield piece, reason
                    if reason is not None:
                        return
        except DeadlineError:
            reason = FinishReason.TIMEOUT
            raise
        except OutOfMemoryError:
            reason = FinishReason.ERROR
            raise
        finally:
            self._finished(reason or FinishReason.ABORT)

    def _finished(self, reason: FinishReason) -> None:
        seconds = self._meter.finish(reason)
        log.info(
            "request finished",
            extra={
                "reply_id": self._id,
                "finish_reason": reason,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "seconds": round(seconds, 3),
            },
        )


class _AnswerText:
    """Token ids to text, up to the end-of-sequence token or the first stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], stop: Sequence[str]) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids)
        self._stops = StopStrings(stop)

    def push(self, delta: Delta) -> tuple[str, FinishReason | None]:
        ended = delta.finish_reason
        # The end-of-sequence token is counted but is not text.
        token_ids = delta.token_ids[:-1] if ended is FinishReason.STOP else delta.token_ids
        piece = self._detokenizer.push(token_ids)
        if ended is not None:
            piece += self._detokenizer.flush()
        piece, stopped = self._stops.push(piece)
        if stopped:
            return piece, FinishReason.STOP
        return (piece + self._stops.flush(), ended) if ended is not None else (piece, None)
