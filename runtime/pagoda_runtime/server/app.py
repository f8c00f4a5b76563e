"""The application: what answers which path. What lies around it is put there by the lifecycle."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from pagoda_runtime.server import errors
from pagoda_runtime.server.api import embeddings, exchange, models, responses, schema, tokenize
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.api.endpoint import Endpoint, Handler
from pagoda_runtime.server.api.websocket import ChatSocket
from pagoda_runtime.server.errors import ApiError

# Paths that take a POST, and what handles it.
HANDLERS: dict[str, Handler] = {
    "/v1/chat/completions": exchange.answer_chat,
    "/v1/completions": exchange.answer_completion,
    "/v1/embeddings": embeddings.embed,
    "/tokenize": tokenize.tokenize,
    "/detokenize": tokenize.detokenize,
    "/v1/responses": responses.refuse,
}


def api_routes(api: Api) -> list[BaseRoute]:
    """The OpenAI endpoints and those beside them."""
    posts = [
        Route(path, Endpoint(api, handler), methods=["POST"]) for path, handler in HANDLERS.items()
    ]
    sockets = WebSocketRoute("/v1/chat/completions", ChatSocket(api))

    async def describe(_: Request) -> Response:
        return errors.json_response(schema.document(api.version))

    openapi = Route("/openapi.json", describe)
    return [*posts, sockets, *models.Models(api).routes, openapi]


def application(routes: Sequence[BaseRoute]) -> Starlette:
    """The ASGI application, with errors in OpenAI's form."""
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: errors.handle_api_error,
            HTTPException: errors.handle_http_error,
            Exception: errors.handle_crash,
        },
    )
    app.router.redirect_slashes = False  # A redirected POST loses its body in many clients.
    return app
