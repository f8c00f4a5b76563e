"""/v1/models and /version."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.errors import ApiError, json_response


class ModelCard(msgspec.Struct):
    """A served name. max_model_len: the context length in tokens."""

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int


class ModelList(msgspec.Struct):
    """All served names."""

    object: str
    data: list[ModelCard]


class Version(msgspec.Struct):
    """The program's version."""

    version: str


class Models:
    """What is served. 503 until the model is there, since clients take this list for readiness."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def routes(self) -> list[Route]:
        """Where the endpoints are."""
        return [
            Route("/v1/models", self.all),
            Route("/v1/models/{name:path}", self.one),
            Route("/version", self.version),
        ]

    async def all(self, request: Request) -> Response:
        """Every name."""
        return json_response(ModelList("list", self._cards()))

    async def one(self, request: Request) -> Response:
        """One name."""
        name = request.path_params["name"]
        for card in self._cards():
            if card.id == name:
                return json_response(card)
        message = f"the model {name!r} does not exist"
        raise ApiError(404, message, param="model", code="model_not_found")

    async def version(self, request: Request) -> Response:
        """The version, at any time."""
        return json_response(Version(self._api.version))

    def _cards(self) -> list[ModelCard]:
        with self._api.state.admitted():
            length = self._api.info.max_model_len
        return [
            ModelCard(name, "model", self._api.created, "pagoda", length)
            for name in self._api.model_names
        ]
