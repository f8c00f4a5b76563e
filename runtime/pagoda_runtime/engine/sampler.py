"""From logits to the next token: the law, in plain torch. `csrc/sample.h` computes the same.

A row of logits goes through these in turn; those a request does not ask for change nothing:

1.  log-probabilities are taken, if asked for: those of the model, whatever the parameters below;
2.  logit_bias: added to the logits of its tokens; those outside the vocabulary mean nothing. Until
    there are min_tokens, stop_token_ids have a bias of minus infinity;
3.  repetition_penalty: a logit of a token in prompt or answer is divided by it if positive, else
    multiplied by it;
4.  frequency_penalty times the token's count in the answer, and presence_penalty if it is there at
    all, are subtracted;
5.  temperature 0 takes the highest logit, the lowest token of equal ones, and is done; otherwise
    weights = exp((logit - highest) / temperature), so the heaviest weighs 1;
6.  min_p: weights below it become 0;
7.  top_k: the k heaviest stay, the others become 0;
8.  top_p: of what is left, the fewest heaviest whose sum is at least top_p of the whole stay;
9.  the token is the first whose cumulative weight, in order of token ids, exceeds
    `uniform(seed, position)` times the whole: the inverse of the cumulative distribution.

In 7 and 8 lower tokens go before higher ones of the same weight. Since the one random number depends
on seed and position alone, an answer does not depend on its batch, and goes on unchanged after a
preemption.

This execution sorts the vocabulary for 7 and 8, which is simple and slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pagoda_runtime.engine.philox import uniform
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.step import Sampled


def sample(logits: Tensor, requests: Sequence[Request]) -> list[Sampled]:
    """Choose the next token of each request by its row of logits [requests, vocab] float32."""
    return [_sample_row(row, request) for row, request in zip(logits, requests, strict=True)]


def score(logits: Tensor, tokens: Sequence[int], count: int) -> list[Sampled]:
    """How likely each row of logits [rows, vocab] made its token, and the `count` likeliest."""
    return [describe(row, token, count) for row, token in zip(logits, tokens, strict=True)]


def _sample_row(logits: Tensor, request: Request) -> Sampled:
    params = request.sampling
    adjusted = adjust(logits, request)
    if params.temperature == 0.0:
        token = int(adjusted.argmax())
    else:
        weights = _filter(((adjusted - adjusted.max()) / params.temperature).exp(), params)
        token = _invert(weights, uniform(params.seed or 0, request.num_tokens))
    if params.logprobs is None:
        return Sampled(token)
    return describe(logits, token, params.logprobs)


def describe(logits: Tensor, token: int, count: int) -> Sampled:
    """How likely a row of logits [vocab] made the token, and its `count` likeliest tokens."""
    logprobs = logits.log_softmax(dim=-1)
    if count == 0:
        return Sampled(token, float(logprobs[token]))
    values, tokens = logprobs.sort(descending=True, stable=True)
    top = zip(tokens[:count].tolist(), values[:count].tolist(), strict=True)
    return Sampled(token, float(logprobs[token]), tuple(top))


def adjust(logits: Tensor, request: Request) -> Tensor:
    """Steps 2 to 4 on a row [vocab]: bias and penalties; → a new row, or the same if there are none."""
    params = request.sampling
    if biases := request.biases:
        logits = logits.clone()
        for token, bias in biases:
            if 0 <= token < len(logits):
                logits[token] += bias
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(request.token_ids)), device=logits.device)
        values, penalty = logits[seen], params.repetition_penalty
        penalised = torch.where(values > 0, values / penalty, values * penalty)
        logits = logits.index_copy(0, seen, penalised)
    counts = Counter(request.token_ids[len(request.prompt_ids) :])
    if counts and (params.frequency_penalty or params.presence_penalty):
        penalties = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        penalties = penalties * params.frequency_penalty + params.presence_penalty
        tokens = torch.tensor(list(counts), device=logits.device)
        logits = logits.index_add(0, tokens, -penalties)
    return logits


def _filter(weights: Tensor, params: SamplingParams) -> Tensor:
    """The weights that min_p, top_k and top_p leave; 0 elsewhere."""
    weights = weights.masked_fill(weights < params.min_p, 0.0)
    if params.top_k <= 0 and params.top_p >= 1.0:
        return weights
    heaviest, tokens = weights.sort(descending=True, stable=True)
    if params.top_k > 0:
        heaviest, tokens = heaviest[: params.top_k], tokens[: params.top_k]
    if params.top_p < 1.0:
        cumulative = heaviest.to(torch.float64).cumsum(dim=0)
        needed = params.top_p * cumulative[-1]
        keep = int((cumulative < needed).sum()) + 1
        heaviest, tokens = heaviest[:keep], tokens[:keep]
    return torch.zeros_like(weights).index_copy(0, tokens, heaviest)


def _invert(weights: Tensor, number: float) -> int:
    """The token whose slice of the cumulative weights holds this part, in [0, 1), of the whole."""
    cumulative = weights.to(torch.float64).cumsum(dim=0)
    # right=True passes over tokens of weight 0. Rounding may push the target past the end: then it
    # is the last one that weighs anything.
    index = int(torch.searchsorted(cumulative, number * cumulative[-1], right=True))
    return min(index, int(weights.nonzero()[-1]))
