"""What requests have in common: how they are read, and the fields of those that generate."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from pagoda_runtime.server.errors import ApiError, bad_request, unsupported

# What a message to the engine can carry.
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
StopString = Annotated[str, Meta(min_length=1)]

DEADLINE_HEADER = "x-request-timeout-ms"
# Values by which clients ask for nothing, for fields that would otherwise change the answer.
NOTHING: tuple[Any, ...] = ([], {}, "", False)


def doc(text: str) -> Meta:
    """A field's description, for the OpenAPI document and docs/api.md."""
    return Meta(description=text)


class Body(msgspec.Struct, kw_only=True):
    """What every request may have. `refused` are fields that would change the answer and that this
    server has not got, with the values that ask for nothing. Fields that are neither in the class
    nor there (user, metadata, store, …) are ignored, as OpenAI's own servers do.
    """

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: Annotated[
        str | None, doc("One of the names in `/v1/models`. Default: the first of them.")
    ] = None


class Deadlined(Body, kw_only=True):
    """A request that the engine works on."""

    priority: Annotated[Int64 | None, doc("Lower runs first. Default 0.")] = None
    cache_salt: Annotated[
        str | None,
        doc("Cached prompts are shared only with requests of the same salt."),
    ] = None
    timeout_ms: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None,
        doc(
            "Milliseconds after which the answer is of no use: 504 then. The header "
            "`x-request-timeout-ms` says the same; the shorter one counts."
        ),
    ] = None


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: Annotated[
        bool | None, doc("End with a chunk that has `usage` and no choices.")
    ] = None
    continuous_usage_stats: Annotated[bool | None, doc("`usage` so far in every chunk.")] = None


class GenerationRequest(Deadlined, kw_only=True):
    """What chats and completions share. null is the same as leaving out: the default, which for
    sampling is what the model's `generation_config.json` says, else OpenAI's.
    """

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "logits_processors": NOTHING,
        "bad_words": NOTHING,
        "allowed_token_ids": NOTHING,
        "use_beam_search": NOTHING,
        "truncate_prompt_tokens": (),
        "prompt_logprobs": (),
        "prompt_embeds": NOTHING,
        "lora_request": NOTHING,
        "response_format": ({"type": "text"}, *NOTHING),
        "structured_outputs": NOTHING,
        "guided_json": NOTHING,
        "guided_regex": NOTHING,
        "guided_choice": NOTHING,
        "guided_grammar": NOTHING,
    }

    n: Annotated[
        Annotated[int, Meta(ge=1, le=128)] | None,
        doc(
            "Answers to each prompt, which is computed once. With a seed they get seed, seed + 1, …"
        ),
    ] = None
    max_tokens: Annotated[Count | None, doc("The longest answer.")] = None
    min_tokens: Annotated[Count | None, doc("Before that many nothing stops the answer.")] = None
    stop: Annotated[
        StopString | Annotated[list[StopString], Meta(max_length=64)] | None,
        doc("Strings that end the answer, which goes up to there."),
    ] = None
    stop_token_ids: Annotated[
        Annotated[list[TokenId], Meta(max_length=64)] | None, doc("The same for tokens.")
    ] = None
    include_stop_str_in_output: Annotated[
        bool | None, doc("The answer goes up to after what stopped it.")
    ] = None
    ignore_eos: Annotated[
        bool | None, doc("The model's end of sequence does not end the answer.")
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0.0, le=2.0)] | None,
        doc("0 takes the most likely token, always."),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(gt=0.0, le=1.0)] | None,
        doc("Only the most likely tokens that together have this probability."),
    ] = None
    top_k: Annotated[
        Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None,
        doc("Only the k most likely tokens; 0 or -1 for all."),
    ] = None
    min_p: Annotated[
        Probability | None, doc("Only tokens with this share of the most likely one's probability.")
    ] = None
    seed: Annotated[Int64 | None, doc("The same seed, the same answer.")] = None
    presence_penalty: Annotated[
        Penalty | None, doc("Taken from the logit of tokens that are in the answer.")
    ] = None
    frequency_penalty: Annotated[Penalty | None, doc("The same, times their count.")] = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(gt=0.0, le=100.0)] | None,
        doc("Divides the logit of tokens in prompt or answer (multiplies it if negative)."),
    ] = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Meta(ge=-100.0, le=100.0)]] | None,
        doc("Token ids, as strings, to what is added to their logits."),
    ] = None
    skip_special_tokens: Annotated[
        bool | None, doc("Special tokens are no text. Default true.")
    ] = None
    return_token_ids: Annotated[
        bool | None, doc("Token ids too: `prompt_token_ids` and each choice's `token_ids`.")
    ] = None
    return_tokens_as_token_ids: Annotated[
        bool | None, doc("In logprobs tokens are called `token_id:N`.")
    ] = None
    stream: Annotated[bool | None, doc("Server-sent events instead of one JSON object.")] = None
    stream_options: Annotated[StreamOptions | None, doc("For a stream.")] = None

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        """True if a stream shall end with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """True if every chunk of a stream shall have the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    @property
    def answer_limit(self) -> int | None:
        """The most answer tokens, None for as many as fit."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to report beside each token; None for no logprobs at all."""
        raise NotImplementedError


B = TypeVar("B", bound=Body)


def parse(body: bytes, kind: type[B]) -> B:
    """Read a request body; ApiError 400 names the field that is wrong or not supported."""
    try:
        raw = msgspec.json.decode(body)
        request = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        where = re.search(r"\$\.(\w+)", str(error)) or re.search(r"field `(\w+)`", str(error))
        raise bad_request(str(error), where.group(1) if where else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the request body is not JSON: {error}") from error
    except RecursionError as error:
        raise bad_request("the request body is nested too deeply") from error
    for name, harmless in kind.refused.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, allowed) for allowed in harmless):
            raise unsupported(name)
    return request


def _same(value: Any, allowed: Any) -> bool:
    # In Python 0 == False, but `logprobs: 0` asks for something and `logprobs: false` does not.
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)


def check_model(request: Body, names: Sequence[str]) -> str:
    """The served name the request means; ApiError 404 if there is none."""
    if request.model is None:
        return names[0]
    if request.model not in names:
        raise ApiError(
            404,
            f"the model {request.model!r} does not exist",
            param="model",
            code="model_not_found",
        )
    return request.model


def one_or_several(
    given: str | Sequence[str | int | list[int]], param: str
) -> list[str | list[int]]:
    """A prompt, or several, as a list of prompts; ApiError 400 for a list that is neither."""
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    several = [item for item in given if not isinstance(item, int)]
    if (tokens and several) or len({type(item) for item in several}) > 1:
        raise bad_request(f"{param} must be texts or lists of token ids, not a mixture", param)
    return several or [tokens]


def check_token_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    """ApiError 400 if one is not a token."""
    if (token := next((t for t in ids if not 0 <= t < vocab_size), None)) is not None:
        raise bad_request(f"token id {token} is outside the vocabulary of {vocab_size}", param)


def deadline(request: Deadlined, header: str | None) -> float | None:
    """The `time.monotonic()` at which the client stops waiting, if it said so."""
    limits = [] if request.timeout_ms is None else [request.timeout_ms]
    if header is not None:
        if not re.fullmatch(r"[1-9][0-9]{0,8}", header):
            raise bad_request("x-request-timeout-ms must be a positive number of milliseconds")
        limits.append(int(header))
    return time.monotonic() + min(limits) / 1000 if limits else None
