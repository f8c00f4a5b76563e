"""One request as the engine sees it: token ids in; token ids, log-probabilities or an embedding out.

No torch here: the API process speaks these types too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pagoda_runtime.engine.step import Sampled


class FinishReason(StrEnum):
    """Why a request ended, in OpenAI's words (`abort` is ours and vLLM's). `timeout` and `error`
    are no answer's end: its deadline passed, or the engine had no memory for it, and the client
    gets an error.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, when to end, and how a request is treated beside others.

    The defaults are off, but temperature 1; temperature 0 is greedy. Names and meaning are vLLM's;
    `engine.sampler` says how they work together.

    - seed: any integer; None lets the engine draw one.
    - max_tokens: of the answer; 0 only together with prompt_logprobs.
    - min_tokens: until there are that many, stop_token_ids cannot be chosen.
    - stop_token_ids: the model's end-of-sequence ids unless the client asked to ignore them.
    - presence_penalty and frequency_penalty count answer tokens, repetition_penalty those of the
      prompt too.
    - logit_bias: (token, what to add to its logit), each token once.
    - logprobs: None for none, else how many alternatives to report beside the chosen token.
    - prompt_logprobs: the same for each token of the prompt, given those before it.
    - priority: lower runs first; among equals, who came first.
    - deadline: `time.monotonic()` seconds after which the answer is of no use; None for never.
    - cache_salt: requests share cached prompt blocks only with requests of the same salt.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    min_tokens: int = 0
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""


class PoolingParams(NamedTuple):
    """An embedding instead of an answer: the final hidden state, after the last norm, of the last
    token, of the first one (cls), or their mean over the prompt. The rest is as in SamplingParams.

    A tuple, so that a message can hold either: msgspec tells types apart by their form.
    """

    pooling: Literal["last", "mean", "cls"]
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""


@dataclass(eq=False)
class Request:
    """State of one request. Times are `time.monotonic()` seconds, which Linux shares between
    processes.

    max_tokens is the longest answer, 0 if only the prompt is read.

    token_ids is prompt plus answer so far; num_computed of them have their keys and values in the
    blocks of block_table. There is no prefill or decode state: a request catches up until one token
    is left to compute.

    The first num_passed blocks of the table have left every layer's window and may be others' by now.
    block_hashes are those of the full blocks of token_ids; others can find the first num_shared of
    them. num_uncached is what the request had to compute when it arrived, num_cached what it found
    when it was first admitted. rank is the scheduler's.

    `wanted` are the prompt's positions whose output the answer needs: those that score a next token,
    or are pooled. Of the first num_read positions it has it; that survives a preemption, so nothing is
    read twice. What was read is in prompt_logprobs (of prompt_ids[1], [2], …) or in hidden_sum
    ([hidden] final hidden states, added up).
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams | PoolingParams
    arrival: float = 0.0
    max_tokens: int = field(init=False)
    token_ids: list[int] = field(init=False)
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_shared: int = 0
    num_passed: int = 0
    num_uncached: int = 0
    num_cached: int | None = None
    wanted: range = field(init=False)
    num_read: int = 0
    prompt_logprobs: list[Sampled] = field(default_factory=list)
    hidden_sum: list[float] | None = None
    num_preemptions: int = 0
    rank: tuple[int, int] = (0, 0)
    scheduled_at: float | None = None
    prompt_tokens_counted: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_ids)
        self.max_tokens = 0 if isinstance(self.params, PoolingParams) else self.params.max_tokens
        self.wanted = _wanted(len(self.prompt_ids), self.params)

    @property
    def sampling(self) -> SamplingParams:
        """The parameters of a request that is not for an embedding."""
        assert isinstance(self.params, SamplingParams)
        return self.params

    @property
    def reads_prompt(self) -> bool:
        """True if the prompt alone has an answer: an embedding, or its log-probabilities."""
        params = self.params
        return isinstance(params, PoolingParams) or params.prompt_logprobs is not None

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """(token, what to add to its logit) for the next token: logit_bias, and what keeps an answer
        from ending before min_tokens.
        """
        params = self.sampling
        if params.min_tokens == 0 or self.num_outputs >= params.min_tokens:
            return params.logit_bias
        return (*params.logit_bias, *((token, -math.inf) for token in params.stop_token_ids))

    @property
    def num_tokens(self) -> int:
        """Prompt plus answer so far."""
        return len(self.token_ids)

    @property
    def num_outputs(self) -> int:
        """Answer tokens so far."""
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet; 1 for a decoding request."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_skippable(self) -> int:
        """Leading tokens that the prefix cache may supply: their keys and values are all that is needed
        of them. Never the last token, whose output is the point of computing anything.
        """
        return min(max(self.num_read, self.wanted.start), self.num_tokens - 1)


def _wanted(length: int, params: SamplingParams | PoolingParams) -> range:
    """The positions of a prompt of this length whose output the answer needs, beside the last
    one's for the next token.
    """
    if isinstance(params, SamplingParams):
        scores = params.prompt_logprobs is not None
        return range(length - 1) if scores else range(length, length)
    return {
        "last": range(length - 1, length),
        "mean": range(length),
        "cls": range(1),
    }[params.pooling]
