"""The OpenAPI document, made from the same types that read requests and write answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from pagoda_runtime.server.api.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from pagoda_runtime.server.api.completions import Completion, CompletionRequest
from pagoda_runtime.server.api.embeddings import EmbeddingList, EmbeddingRequest
from pagoda_runtime.server.api.models import ModelCard, ModelList, Version
from pagoda_runtime.server.api.request import DEADLINE_HEADER
from pagoda_runtime.server.api.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from pagoda_runtime.server.errors import ErrorBody

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One path and method. stream: what each event holds where the answer can be streamed;
    queued: the engine works on it, so it can meet a full queue or its deadline.
    """

    method: str
    path: str
    summary: str
    response: type[msgspec.Struct]
    request: type[msgspec.Struct] | None = None
    stream: type[msgspec.Struct] | None = None
    queued: bool = False


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "The assistant's next message in a chat.",
        ChatCompletion,
        ChatRequest,
        ChatCompletionChunk,
        queued=True,
    ),
    Operation(
        "post",
        "/v1/completions",
        "How texts go on.",
        Completion,
        CompletionRequest,
        Completion,
        queued=True,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Texts as vectors.",
        EmbeddingList,
        EmbeddingRequest,
        queued=True,
    ),
    Operation(
        "post", "/tokenize", "A text's or a chat's tokens.", TokenizeResponse, TokenizeRequest
    ),
    Operation("post", "/detokenize", "Tokens as text.", DetokenizeResponse, DetokenizeRequest),
    Operation("get", "/v1/models", "The served names.", ModelList),
    Operation("get", "/v1/models/{name}", "One of them.", ModelCard),
    Operation("get", "/version", "The program's version.", Version),
)
# What an error's status means, for all endpoints.
ERRORS = {
    400: "The request is wrong or asks for what is not supported; `param` names the field.",
    404: "There is no such path or model (`model_not_found`).",
    405: "The path has other methods: `Allow` says which.",
    408: "The body did not arrive within `--body-timeout` (`request_timeout`).",
    413: "The body is larger than `--max-body-bytes` (`request_too_large`).",
    429: "The queue is full (`queue_full`): again after `Retry-After`, or elsewhere.",
    500: "A bug in the server; its log has it.",
    503: "This replica does not serve (`loading`, `draining`, `engine_dead`): another one may.",
    504: "The request's deadline passed (`deadline_exceeded`).",
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.2 document: the first version that knows event streams."""
    types: dict[type[msgspec.Struct], None] = {ErrorBody: None}
    for operation in OPERATIONS:
        for kind in (operation.response, operation.request, operation.stream):
            if kind is not None:
                types[kind] = None
    refs, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, refs, strict=True))
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, by_type)
    return {
        "openapi": "3.2.0",
        "info": {"title": "Pagoda runtime", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(operation: Operation, refs: dict[type, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": refs[operation.response]}}
    if operation.stream is not None:
        data = {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {"anyOf": [refs[operation.stream], refs[ErrorBody]]},
            "description": "The last one is `[DONE]`, or an error.",
        }
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content[EVENTS] = {"itemSchema": event}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in _statuses(operation):
        error = {JSON: {"schema": refs[ErrorBody]}}
        responses[str(status)] = {"description": ERRORS[status], "content": error}
    parameters: list[dict[str, Any]] = []
    if "{name}" in operation.path:
        parameters.append(
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        )
    if operation.queued:
        schema = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
        parameters.append({"name": DEADLINE_HEADER, "in": "header", "schema": schema})
    result = {"summary": operation.summary, "parameters": parameters, "responses": responses}
    if operation.request is not None:
        body = {JSON: {"schema": refs[operation.request]}}
        result["requestBody"] = {"required": True, "content": body}
    return result


def _statuses(operation: Operation) -> list[int]:
    never: set[int] = set()
    if operation.request is None:
        never |= {400, 408, 413}
    if not operation.queued:
        never |= {429, 504}
    return [status for status in ERRORS if status not in never]
