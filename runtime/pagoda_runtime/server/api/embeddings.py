"""/v1/embeddings."""

from __future__ import annotations

import base64
import math
import struct
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta
from starlette.datastructures import Headers
from starlette.types import Send

from pagoda_runtime.engine.request import PoolingParams
from pagoda_runtime.server import ipc
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.api.request import (
    DEADLINE_HEADER,
    Deadlined,
    TokenId,
    check_model,
    check_token_ids,
    deadline,
    doc,
    one_or_several,
    parse,
)
from pagoda_runtime.server.engine_client import ENGINE_ERRORS
from pagoda_runtime.server.errors import bad_request, from_engine, unsupported


class EmbeddingRequest(Deadlined, kw_only=True):
    """POST /v1/embeddings."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {"truncate_prompt_tokens": ()}

    input: Annotated[
        str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=131072)],
        doc("A text, token ids, or a list of at most 2048 of either."),
    ]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, doc("base64 is of little-endian float32. Default float.")
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None,
        doc("Only what the model's config.json lists as `matryoshka_dimensions`."),
    ] = None
    add_special_tokens: Annotated[
        bool | None, doc("Begin a text as the model's tokenizer does. Default true.")
    ] = None


class Embedding(msgspec.Struct):
    """One input's embedding, of length 1."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """Embeddings in the order of the inputs."""

    id: str
    object: str
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


async def embed(api: Api, body: bytes, headers: Headers, send: Send) -> EmbeddingList:
    """Embeddings of one or several inputs."""
    request = parse(body, EmbeddingRequest)
    model = check_model(request, api.model_names)
    if request.dimensions not in (None, *api.ready_text.matryoshka_dimensions):
        raise unsupported("dimensions", "the model was not trained to be cut to that")
    prompts = [await _ids(api, request, item) for item in one_or_several(request.input, "input")]
    if len(prompts) > 2048:
        raise bad_request("at most 2048 inputs in one request", "input")
    until = deadline(request, headers.get(DEADLINE_HEADER))
    params = PoolingParams(
        api.config.pooling_type, request.priority or 0, until, request.cache_salt or ""
    )
    name = f"embd-{uuid.uuid4().hex}"
    vectors: list[list[float]] = []
    # No more at once than one step can have: the queue is for everybody.
    size = api.config.engine.max_num_seqs
    for begin in range(0, len(prompts), size):
        some = prompts[begin : begin + size]
        vectors += await _run(api, f"{name}-{begin}", some, params)
    data = [
        Embedding("embedding", i, _encoded(vector, request)) for i, vector in enumerate(vectors)
    ]
    tokens = sum(map(len, prompts))
    return EmbeddingList(
        name, "list", int(time.time()), model, data, EmbeddingUsage(tokens, tokens)
    )


async def _ids(api: Api, request: EmbeddingRequest, item: str | list[int]) -> list[int]:
    if isinstance(item, str):
        ids = await api.encode(item, add_special_tokens=request.add_special_tokens is not False)
    else:
        check_token_ids(item, api.limits.vocab_size, "input")
        ids = item
    if not ids:
        raise bad_request("an input is empty", "input")
    if len(ids) > api.limits.max_model_len:
        raise bad_request(
            f"this model's maximum context length is {api.limits.max_model_len} tokens, but an "
            f"input has {len(ids)}",
            "input",
            "context_length_exceeded",
        )
    return ids


async def _run(
    api: Api, name: str, prompts: Sequence[list[int]], params: PoolingParams
) -> list[list[float]]:
    arrival = time.monotonic()
    requests = [ipc.Submit(f"{name}-{i}", ids, params, arrival) for i, ids in enumerate(prompts)]
    found: dict[str, list[float]] = {}
    try:
        with api.engine.stream(requests) as stream:
            await stream.accepted()
            while len(found) < len(requests):
                delta = await stream.next()
                if delta.finish_reason is not None:
                    found[delta.id] = delta.embedding or []
                    api.metrics.on_finish(delta.finish_reason)
                    api.metrics.request.observe(time.monotonic() - arrival)
    except ENGINE_ERRORS as error:
        raise from_engine(error) from error
    return [found[request.id] for request in requests]


def _encoded(vector: Sequence[float], request: EmbeddingRequest) -> list[float] | str:
    vector = vector[: request.dimensions]
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    unit = [x / length for x in vector]
    if request.encoding_format != "base64":
        return unit
    return base64.b64encode(struct.pack(f"<{len(unit)}f", *unit)).decode()
