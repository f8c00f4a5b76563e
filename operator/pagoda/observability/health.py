"""Liveness and readiness over HTTP."""

import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web


class Health:
    """Answers /healthz (the process works) and /readyz (it may be relied on)."""

    def __init__(self, *, stale_after: float, watched_at: Mapping[str, float]):
        """Begin unready.

        Args:
            stale_after: seconds for which a watch may be silent while things change.
            watched_at: when each kind's watch last reported anything (monotonic).
        """
        self._stale_after = stale_after
        self._watched_at = watched_at
        self._primed = False
        self._stopping = False
        self._missed_since: dict[str, float] = {}

    def primed(self) -> None:
        """Note that the cache holds the cluster's state."""
        self._primed = True

    def stopping(self) -> None:
        """Note that the process is about to end."""
        self._stopping = True

    def suspect(self, kind: str, since: float) -> None:
        """Note that a re-list found changes of a kind whose watch has said nothing since."""
        self._missed_since.setdefault(kind, since)

    def trust(self, kind: str) -> None:
        """Note that a re-list found nothing that a kind's watch had missed."""
        self._missed_since.pop(kind, None)

    def silent_watches(self) -> list[str]:
        """List kinds under suspicion that have said nothing since."""
        return sorted(
            kind
            for kind, since in self._missed_since.items()
            if self._watched_at.get(kind, 0.0) < since
        )

    def dead_watches(self) -> list[str]:
        """List kinds whose watch has been silent for too long: kopf may lose a watcher without a
        word, and only a restart brings it back."""
        limit = time.monotonic() - self._stale_after
        return [kind for kind in self.silent_watches() if self._missed_since[kind] < limit]

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
