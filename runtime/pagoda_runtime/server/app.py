"""The application: endpoints, probes, and what lies around all of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from pagoda_runtime.server import errors
from pagoda_runtime.server.api import embeddings, exchange, models, responses, schema, tokenize
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.api.endpoint import Endpoint, Handler
from pagoda_runtime.server.api.websocket import ChatSocket
from pagoda_runtime.server.errors import ApiError
from pagoda_runtime.server.probes import Probes
from pagoda_runtime.server.request_id import RequestIdMiddleware

# Paths that take a POST, and what handles it.
HANDLERS: dict[str, Handler] = {
    "/v1/chat/completions": exchange.answer_chat,
    "/v1/completions": exchange.answer_completion,
    "/v1/embeddings": embeddings.embed,
    "/tokenize": tokenize.tokenize,
    "/detokenize": tokenize.detokenize,
    "/v1/responses": responses.refuse,
}


def application(api: Api, probes: Probes) -> ASGIApp:
    """The ASGI application."""
    posts = [
        Route(path, Endpoint(api, handler), methods=["POST"]) for path, handler in HANDLERS.items()
    ]
    sockets = WebSocketRoute("/v1/chat/completions", ChatSocket(api))

    async def describe(_: Request) -> Response:
        return errors.json_response(schema.document(api.version))

    openapi = Route("/openapi.json", describe)
    app = Starlette(
        routes=[*posts, sockets, *models.Models(api).routes, openapi, *probes.routes],
        exception_handlers={
            ApiError: errors.handle_api_error,
            HTTPException: errors.handle_http_error,
            Exception: errors.handle_crash,
        },
    )
    app.router.redirect_slashes = False  # A redirected POST loses its body in many clients.
    return RequestIdMiddleware(app)
