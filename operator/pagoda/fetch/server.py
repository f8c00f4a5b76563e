"""Progress over HTTP, for the operator to poll."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from pagoda.fetch.progress import Progress

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    progress: Progress, port: int, redact: Callable[[str], str]
) -> AsyncIterator[None]:
    """Answer GET /progress on `port`, on all addresses; a port that is taken costs only that."""

    async def answer(_: web.Request) -> web.Response:
        document = progress.document()
        return web.json_response(document | {"detail": redact(document["detail"])})

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, port=port).start()
        except OSError as error:
            log.warning("progress is not served", extra={"cause": str(error)})
        yield
    finally:
        await runner.cleanup()
