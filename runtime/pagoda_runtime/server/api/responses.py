"""/v1/responses, which is not there."""

from __future__ import annotations

import msgspec
from starlette.datastructures import Headers
from starlette.types import Send

from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.errors import ApiError


async def refuse(api: Api, body: bytes, headers: Headers, send: Send) -> msgspec.Struct | None:
    """Say where to go instead."""
    message = "the Responses API is not supported by this server: use /v1/chat/completions"
    raise ApiError(404, message, code="unsupported_endpoint")
