"""What the engine says after a step. No torch here: the API process speaks these types too."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.engine.step import Sampled


@dataclass(frozen=True)
class Delta:
    """What one step brought one request.

    queue_time (seconds) comes with the first token only; logprobs, one per token, only to requests
    that ask for them.
    """

    id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    queue_time: float | None = None
    logprobs: list[Sampled] = field(default_factory=list)


@dataclass(frozen=True)
class Stats:
    """The engine's state after a step. prompt_tokens, generation_tokens and step_seconds are those of
    this step alone, the last None if there was none; the prefix cache's are counted in tokens, over the
    engine's life.
    """

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    preemptions_total: int
    prefix_cache_queries_total: int
    prefix_cache_hits_total: int
    prompt_tokens: int = 0
    generation_tokens: int = 0
    step_seconds: float | None = None
