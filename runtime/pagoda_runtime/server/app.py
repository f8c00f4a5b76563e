"""The OpenAI endpoints, and the application that they and the probes make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pagoda_runtime.server import errors, protocol, sse
from pagoda_runtime.server.chat import ChatTemplateError, TextModel
from pagoda_runtime.server.engine_client import (
    DeadlineError,
    EngineClient,
    EngineDeadError,
    OutOfMemoryError,
    QueueFullError,
    RequestRejectedError,
)
from pagoda_runtime.server.errors import ApiError, bad_request, json_response
from pagoda_runtime.server.generation import Generation
from pagoda_runtime.server.metrics import Metrics
from pagoda_runtime.server.protocol import (
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    Reply,
)
from pagoda_runtime.server.state import ReplicaState

_ENGINE_ERRORS = (
    EngineDeadError,
    RequestRejectedError,
    QueueFullError,
    OutOfMemoryError,
    DeadlineError,
)


class Api:
    """The OpenAI endpoints. `text` is set when it has been read, before the state becomes ready."""

    def __init__(
        self,
        engine: EngineClient,
        state: ReplicaState,
        metrics: Metrics,
        model_names: tuple[str, ...],
    ) -> None:
        self.engine = engine
        self.state = state
        self.metrics = metrics
        self.model_names = model_names
        self.text: TextModel | None = None
        self._created = int(time.time())

    @property
    def routes(self) -> list[Route]:
        """Where the endpoints are."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/completions", _Endpoint(self, self._completion), methods=["POST"]),
            Route("/v1/chat/completions", _Endpoint(self, self._chat), methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """The served names; 503 until the model is there, since clients take this list for
        readiness.
        """
        with self.state.admitted():
            assert self.engine.info is not None
            length = self.engine.info.max_model_len
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "pagoda",
                "max_model_len": length,
            }
            for name in self.model_names
        ]
        return json_response({"object": "list", "data": cards})

    async def _chat(self, body: bytes) -> tuple[protocol.ChatRequest, Reply, Generation]:
        request = protocol.parse(body, ChatRequest)
        reply = ChatReply(protocol.check_model(request, self.model_names))
        assert self.text is not None
        try:
            prompt = self.text.render_chat([message.for_template() for message in request.messages])
        except ChatTemplateError as error:
            raise bad_request(str(error), "messages") from error
        # The template has written the special tokens already.
        prompt_ids = await asyncio.to_thread(self.text.encode, prompt, add_special_tokens=False)
        return request, reply, self._generation(request, reply, prompt_ids)

    async def _completion(
        self, body: bytes
    ) -> tuple[protocol.CompletionRequest, Reply, Generation]:
        request = protocol.parse(body, CompletionRequest)
        reply = CompletionReply(protocol.check_model(request, self.model_names))
        assert self.text is not None
        assert self.engine.info is not None
        prompt = request.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, str):
            prompt_ids = await asyncio.to_thread(self.text.encode, prompt, add_special_tokens=True)
        elif any(isinstance(item, str | list) for item in prompt):
            raise bad_request("several prompts in one request are not supported", "prompt")
        else:
            prompt_ids = protocol.check_token_ids(prompt, self.engine.info.vocab_size)
        return request, reply, self._generation(request, reply, prompt_ids)

    def _generation(
        self, request: ChatRequest | CompletionRequest, reply: Reply, prompt_ids: list[int]
    ) -> Generation:
        assert self.text is not None
        assert self.engine.info is not None
        params = protocol.sampling_params(
            request,
            len(prompt_ids),
            max_model_len=self.engine.info.max_model_len,
            defaults=self.text.defaults,
            eos_token_ids=self.text.eos_token_ids,
        )
        return Generation(
            self.engine,
            self.text.tokenizer,
            self.metrics,
            request_id=reply.id,
            prompt_ids=prompt_ids,
            params=params,
            stop=request.stop_strings,
        )


def application(routes: Sequence[Route]) -> Starlette:
    """The ASGI application, with errors in OpenAI's form."""
    return Starlette(
        routes=list(routes),
        exception_handlers={
            ApiError: errors.handle_api_error,
            HTTPException: errors.handle_http_error,
            Exception: errors.handle_crash,
        },
    )


class _Endpoint:
    """An endpoint that generates. A bare ASGI app, because it counts as in flight until its
    last byte is out.
    """

    def __init__(self, api: Api, prepare: Any) -> None:
        self._api = api
        self._prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._api.state.admitted():
            try:
                body = await Request(scope, receive).body()
            except ClientDisconnect:
                return
            request, reply, generation = await self._prepare(body)
            if request.stream:
                events = _events(reply, generation, request.include_usage)
                await sse.unless_disconnected(receive, sse.send_events(send, events))
                return
            content = await sse.unless_disconnected(receive, _whole(reply, generation))
            if content is not None:
                await json_response(content)(scope, receive, send)


async def _whole(reply: Reply, generation: Generation) -> dict[str, Any]:
    """The answer in one piece."""
    try:
        async with aclosing(generation.pieces()) as pieces:
            answer = [piece async for piece in pieces]
    except _ENGINE_ERRORS as error:
        raise _as_api_error(error) from error
    text, reason = "".join(piece for piece, _ in answer), answer[-1][1]
    assert reason is not None
    return reply.whole(text, reason) | {"usage": _usage(generation)}


async def _events(
    reply: Reply, generation: Generation, include_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer chunk by chunk, ending with usage if asked for, or with an error."""
    # With usage asked for, the chunks before it carry `usage: null`.
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    for chunk in reply.opening():
        yield chunk | extra
    try:
        async with aclosing(generation.pieces()) as pieces:
            async for text, reason in pieces:
                if text:
                    yield reply.chunk(text, None) | extra
                if reason is not None:
                    yield reply.chunk("", reason) | extra
    except _ENGINE_ERRORS as error:
        yield _as_api_error(error).body()
        return
    if include_usage:
        yield reply.usage_chunk(_usage(generation))


def _usage(generation: Generation) -> dict[str, int]:
    return protocol.usage(generation.prompt_tokens, generation.completion_tokens)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, RequestRejectedError):
        return bad_request(str(error))
    if isinstance(error, QueueFullError):
        return errors.queue_full(str(error))
    if isinstance(error, OutOfMemoryError):
        return errors.unavailable("out_of_memory", retry_after=1)
    if isinstance(error, DeadlineError):
        return errors.deadline_exceeded()
    # Its reason is for the log and the probes; the client can only go elsewhere.
    return errors.unavailable("engine_dead", retry_after=1, close=True)
