"""The seam between the engine and whatever executes the model: chunks in; tokens, log-probabilities
and hidden states out.

Neither torch nor numpy here. Plain torch, the fused C++ call and whatever comes later are all a
`Runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pagoda_runtime.engine.request import Request

_NOTHING = range(0)


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, start+length) of one request, to be computed in one step."""

    request: Request
    start: int
    length: int

    @property
    def end(self) -> int:
        """First position after the chunk; also the context length its last token attends to."""
        return self.start + self.length

    @property
    def samples(self) -> bool:
        """True if the chunk reaches the end of what is known, so its last logits choose the
        next token.
        """
        return self.end == self.request.num_tokens and self.request.max_tokens > 0

    @property
    def wanted(self) -> range:
        """Positions of the prompt whose output the request has yet to read: `Request.wanted` says
        what for.
        """
        request = self.request
        wanted = request.wanted
        if request.num_read >= wanted.stop:  # So it is for every decode of every step: be quick.
            return _NOTHING
        return range(max(self.start, request.num_read, wanted.start), min(self.end, wanted.stop))


@dataclass(frozen=True)
class Sampled:
    """What one row of logits became, or how it scores the token that does follow.

    logprob is the token's natural logarithm of probability, top_logprobs the most likely
    (token, logprob) pairs, best first, ties by lower token. Both are those of the model's own
    logits, before any sampling parameter. They are None and () unless the request's
    `params.logprobs` asks for them; scores always have them.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class ChunkOutput(NamedTuple):
    """What a step made of one chunk.

    - sampled: the next token, if the chunk samples.
    - prompt_logprobs: with SamplingParams, one for each position p of `Chunk.wanted`: how likely
      prompt token p+1 was, and `params.prompt_logprobs` alternatives.
    - hidden_sum: with PoolingParams, `Request.hidden_sum` plus the final hidden states, after the last
      norm, of `Chunk.wanted`, in float64; [hidden].
    """

    sampled: Sampled | None = None
    prompt_logprobs: Sequence[Sampled] = ()
    hidden_sum: list[float] | None = None


class Runner(Protocol):
    """One way of executing the model. It owns the weights and the KV blocks' memory.

    looks_ahead: whether it computes the next token of a request before it is asked to, if the
    request has a block for it by then.
    """

    looks_ahead: bool

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """Compute one step; return what it made of each chunk, in their order.

        - The tokens of a chunk are `request.token_ids[start:end]`, their positions start … end-1.
          Position p lives in slot p % block_size of block `request.block_table[p // block_size]`.
        - Each token attends to positions 0 … its own (the last `window` of them in a layer with
          one). Those before `start` are in the blocks already.
        - A block may be in several tables, and one chunk may read what another chunk of the same
          step writes (a prompt's blocks are shared as soon as they are scheduled). So within a
          layer all chunks' keys and values are written before any chunk attends.
        - The order of `chunks` means nothing: a row's result depends on its request alone.
        - The next token is chosen as `engine.sampler` describes, from `request.params`, at
          position `request.num_tokens`. `params.seed` is never None here.
        - However many positions are scored, at most `kv_size.logits_rows` rows of logits exist at once.

        `chunks` is never empty. MemoryError makes the engine try again with less (`engine.memory`);
        any other exception ends it.
        """


class ExecutionUnavailableError(Exception):
    """This way of executing the model cannot run here; the message says why, for the log."""
