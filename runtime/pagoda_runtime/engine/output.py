"""What the engine says after a step. No torch here: the API process speaks these types too."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.engine.step import Sampled


@dataclass(frozen=True)
class Delta:
    """What one step brought one request.

    Only with the first delta come queue_time (seconds), cached_tokens, which is how many of the prompt
    the prefix cache had, and prompt_logprobs, an entry per token of the prompt and None for its first,
    to requests that ask for them. logprobs, one per token, are for those who ask too. embedding
    [hidden] is the only answer to PoolingParams. num_preemptions says how often the request was sent
    back to the queue so far.
    """

    id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    queue_time: float | None = None
    logprobs: list[Sampled] = field(default_factory=list)
    prompt_logprobs: list[Sampled | None] = field(default_factory=list)
    cached_tokens: int | None = None
    embedding: list[float] | None = None
    num_preemptions: int = 0


@dataclass(frozen=True)
class Stats:
    """The engine's state after a step. prompt_tokens, cached_tokens (those of them that the prefix cache
    had), generation_tokens and step_seconds are those of this step alone, the last None if there was
    none; the prefix cache's totals are counted in tokens, over the engine's life.
    """

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    preemptions_total: int
    prefix_cache_queries_total: int
    prefix_cache_hits_total: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    step_seconds: float | None = None
