"""One generation request as the engine sees it: token ids in, token ids out.

No torch here: the API process speaks these types too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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
    - stop_token_ids: the model's end-of-sequence ids unless the client asked to ignore them.
    - presence_penalty and frequency_penalty count answer tokens, repetition_penalty those of the
      prompt too.
    - logit_bias: (token, what to add to its logit), each token once.
    - logprobs: None for none, else how many alternatives to report beside the chosen token.
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
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""


@dataclass(eq=False)
class Request:
    """State of one request. Times are `time.monotonic()` seconds, which Linux shares between
    processes.

    token_ids is prompt plus answer so far; num_computed of them have their keys and values in the
    blocks of block_table. There is no prefill or decode state: a request catches up until one token
    is left to compute.

    block_hashes are those of the full blocks of token_ids; others can find the first num_shared of
    them. num_uncached is what the request had to compute when it arrived. rank is the scheduler's.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    arrival: float = 0.0
    token_ids: list[int] = field(init=False)
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_shared: int = 0
    num_uncached: int = 0
    num_preemptions: int = 0
    rank: tuple[int, int] = (0, 0)
    scheduled_at: float | None = None
    prompt_tokens_counted: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_ids)

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
    def max_total_tokens(self) -> int:
        """The most tokens whose keys and values this request can ever need in the cache.

        The last answer token is returned but never fed back, so it needs no slot.
        """
        return len(self.prompt_ids) + self.params.max_tokens - 1
