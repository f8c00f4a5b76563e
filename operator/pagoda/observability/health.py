"""Liveness and readiness over HTTP."""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web


class Health:
    """Answers /healthz (the process works) and /readyz (it may be relied on)."""

    def __init__(self, *, stale_after: float):
        """Begin unready.

        Args:
            stale_after: seconds for which a watch may be silent while things change.
        """
        self._stale_after = stale_after
        self._primed = False
        self._stopping = False
        self._missed_since: dict[str, float] = {}

    def primed(self) -> None:
        """Note that the cache holds the cluster's state."""
        self._primed = True

    def stopping(self) -> None:
        """Note that the process is about to end."""
        self._stopping = True

    def watch_checked(self, kind: str, *, is_silent: bool) -> None:
        """Note whether a re-list found changes of a kind whose watch said nothing."""
        if is_silent:
            self._missed_since.setdefault(kind, time.monotonic())
        else:
            self._missed_since.pop(kind, None)

    def dead_watches(self) -> list[str]:
        """List kinds whose watch has been missing changes for too long: kopf may lose a watcher
        without a word, and only a restart brings it back."""
        limit = time.monotonic() - self._stale_after
        return sorted(kind for kind, since in self._missed_since.items() if since < limit)

    async def serve(self, port: int) -> Callable[[], Awaitable[None]]:
        """Serve both paths; returns the coroutine function that ends it."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, port=port).start()
        return runner.cleanup

    async def _healthz(self, _: web.Request) -> web.Response:
        if dead := self.dead_watches():
            return web.Response(status=500, text=f"the watches of {', '.join(dead)} are dead\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._stopping:
            return web.Response(status=503, text="stopping\n")
        if not self._primed:
            return web.Response(status=503, text="reading the cluster's state\n")
        return web.Response(text="ok\n")
