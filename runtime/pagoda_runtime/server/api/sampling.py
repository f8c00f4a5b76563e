"""From a request's fields to the engine's sampling parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pagoda_runtime.engine.request import SamplingParams
from pagoda_runtime.server.api.request import GenerationRequest, check_token_ids
from pagoda_runtime.server.errors import bad_request
from pagoda_runtime.server.text import SamplingDefaults


@dataclass(frozen=True)
class ModelLimits:
    """What the model allows, and what it does where a request says nothing."""

    max_model_len: int
    vocab_size: int
    defaults: SamplingDefaults
    eos_token_ids: tuple[int, ...]


def sampling_params(
    request: GenerationRequest,
    prompt_length: int,
    model: ModelLimits,
    *,
    prompt_param: str,
    prompt_logprobs: int | None = None,
    deadline: float | None = None,
) -> SamplingParams:
    """Fill in what was left out; ApiError 400 for what cannot work with this prompt."""
    if prompt_length == 0:
        raise bad_request("the prompt is empty", prompt_param)
    limit = _answer_limit(request, prompt_length, model.max_model_len, prompt_param)
    if request.min_tokens is not None and request.min_tokens > limit:
        raise bad_request(f"min_tokens is above max_tokens, {limit}", "min_tokens")
    check_token_ids(request.stop_token_ids or (), model.vocab_size, "stop_token_ids")
    stop_tokens = set(request.stop_token_ids or ())
    if not request.ignore_eos:
        stop_tokens.update(model.eos_token_ids)
    defaults = model.defaults
    top_k = defaults.top_k if request.top_k is None else request.top_k
    return SamplingParams(
        max_tokens=limit,
        min_tokens=request.min_tokens or 0,
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        top_k=max(0, top_k),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        logit_bias=_logit_bias(request.logit_bias or {}, model.vocab_size),
        seed=request.seed,
        stop_token_ids=tuple(sorted(stop_tokens)),
        logprobs=request.num_logprobs,
        prompt_logprobs=prompt_logprobs,
        priority=request.priority or 0,
        deadline=deadline,
        cache_salt=request.cache_salt or "",
    )


def _answer_limit(
    request: GenerationRequest, prompt_length: int, max_model_len: int, prompt_param: str
) -> int:
    limit = request.answer_limit
    wanted = prompt_length + (1 if limit is None else limit)
    if wanted > max_model_len:
        raise bad_request(
            # OpenAI's words: clients look for them.
            f"this model's maximum context length is {max_model_len} tokens, but {wanted} were "
            f"requested: {prompt_length} in the prompt and "
            f"{'at least 1' if limit is None else limit} for the answer",
            prompt_param,
            "context_length_exceeded",
        )
    return max_model_len - prompt_length if limit is None else limit


def _logit_bias(bias: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    tokens: dict[int, float] = {}
    for name, value in bias.items():
        if not re.fullmatch("[0-9]{1,9}", name) or int(name) >= vocab_size:
            message = f"logit_bias: {name!r} is no token id below {vocab_size}"
            raise bad_request(message, "logit_bias")
        tokens[int(name)] = value
    return tuple(tokens.items())
