"""From start to exit code: load, serve, drain on SIGTERM, end with an error when the engine
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from pagoda_runtime import logs
from pagoda_runtime.config import ConfigError, ServeConfig
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import read_spec
from pagoda_runtime.server import ipc, tracing
from pagoda_runtime.server.access import AccessLog
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.app import api_routes, application
from pagoda_runtime.server.auth import ApiKeyGuard, ApiKeys
from pagoda_runtime.server.connections import ConnectionLimit, allow_files
from pagoda_runtime.server.engine_client import EngineClient, EngineDeadError
from pagoda_runtime.server.http import (
    FAREWELL_SECONDS,
    HttpServer,
    ListenError,
    listen,
    metrics_route,
)
from pagoda_runtime.server.metrics import Metrics
from pagoda_runtime.server.probes import Probes
from pagoda_runtime.server.request_id import RequestIdMiddleware, request_id
from pagoda_runtime.server.startup import StartPhase, Startup
from pagoda_runtime.server.state import Phase, ReplicaState
from pagoda_runtime.server.text import TextModel
from pagoda_runtime.server.tracing import TracingMiddleware
from pagoda_runtime.server.watchdog import Watchdog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("pagoda.api")


def run(config: ServeConfig) -> int:
    """Serve until told to stop; return the process's exit code."""
    logs.configure(config.engine.log_level, _log_context)
    return asyncio.run(Lifecycle(config).run())


def _log_context() -> dict[str, str]:
    name = request_id.get()
    return {"request_id": name} if name else {}


class Lifecycle:
    """One run of the server."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._metrics = Metrics(
            config.model_names[0], config.engine, vllm_names=config.metrics_compat == "vllm"
        )
        self._state = ReplicaState(self._metrics.on_rejection)
        self._startup = Startup(self._metrics.on_startup)
        self._engine = EngineClient(
            config.engine, self._metrics.on_stats, self._on_loading, self._metrics.on_rejection
        )
        self._watchdog = Watchdog(self._engine, config.step_timeout)
        self._api = Api(config, self._engine, self._state, self._metrics)
        self._stop = asyncio.Event()  # the first SIGTERM
        self._stop_now = asyncio.Event()  # the second one

    async def run(self) -> int:
        """Serve; 0 after a drain, 1 if the engine or the start failed."""
        allow_files(self._config.max_connections)
        tracer = tracing.provider()
        try:
            servers = self._servers(tracer)
        except (ConfigError, ListenError) as error:
            return self._fail(str(error))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        serving = [asyncio.create_task(server.run_on(listener)) for server, listener in servers]
        try:
            await self._load()
            await self._first(self._stop)
            biting = asyncio.create_task(self._watchdog.bite())
            try:
                await self._drain()
            finally:
                biting.cancel()
            return 0
        except (ConfigError, EngineDeadError) as error:
            self._state.phase = Phase.DEAD
            self._metrics.ready.set(0)
            # Streams get their error event first.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state.idle.wait(), FAREWELL_SECONDS)
            return self._fail(str(error))
        finally:
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            await self._engine.close()
            if tracer is not None:
                # Waits for the collector, which may not be there; a daemon, so that nobody waits
                # for that in turn.
                sending = threading.Thread(target=tracer.shutdown, daemon=True)
                sending.start()
                sending.join(FAREWELL_SECONDS)

    def _servers(self, tracer: TracerProvider | None) -> list[tuple[HttpServer, socket.socket]]:
        """The API's server and, if it has a port of its own, that of the metrics."""
        config = self._config
        tell = partial(write_termination_log, config.termination_log)
        probes = Probes(self._engine, self._state, self._startup, self._watchdog, tell)
        routes = [*api_routes(self._api), *probes.routes]
        metrics = metrics_route(self._metrics)
        if config.metrics_port is None:
            routes.append(metrics)
        app: ASGIApp = application(routes)
        if tracer is not None:
            app = TracingMiddleware(app, tracer, config.model_names[0])
        if config.api_key_file is not None:
            app = ApiKeyGuard(app, ApiKeys(config.api_key_file))
        app = ConnectionLimit(app)
        paths = {route.path for route in routes if isinstance(route, Route | WebSocketRoute)}
        app = AccessLog(app, self._metrics, paths)
        servers = [self._server("listening", RequestIdMiddleware(app), config.port)]
        if config.metrics_port is not None:
            app = application([metrics])
            servers.append(self._server("listening for metrics", app, config.metrics_port))
        return servers

    def _server(self, message: str, app: ASGIApp, port: int) -> tuple[HttpServer, socket.socket]:
        host = self._config.host
        listener = listen(host, port)
        log.info(message, extra={"host": host, "port": listener.getsockname()[1]})
        return HttpServer(app, self._config), listener

    def _on_loading(self, message: ipc.Progress | ipc.Warming) -> None:
        self._startup.on_loading(message)
        if self._startup.phase is StartPhase.SELF_TEST and self._state.phase is Phase.LOADING:
            self._state.phase = Phase.WARMING

    async def _load(self) -> None:
        """Read the tokenizer here while the engine loads the weights over there."""
        await self._engine.start()
        log.info("engine started", extra={"engine_pid": self._engine.pid})
        model_dir = Path(self._config.engine.model)
        # The engine would find this too, but only after it has imported torch.
        spec = await asyncio.to_thread(read_spec, model_dir)
        Shard(spec, size=self._config.engine.tensor_parallel_size)
        self._api.text = await asyncio.to_thread(TextModel, model_dir)
        await self._first(self._engine.loaded, self._stop)
        if self._stop.is_set():
            return
        self._startup.finish()
        self._state.phase = Phase.READY
        self._metrics.ready.set(1)
        log.info("ready", extra={"seconds": round(self._startup.elapsed, 3)})

    async def _drain(self) -> None:
        """Go without losing a request: unready first, refuse later, abort what is left at the
        end.
        """
        if self._state.phase is not Phase.READY:
            return
        self._state.phase = Phase.DRAINING
        self._metrics.ready.set(0)
        log.info("draining", extra={"requests": self._engine.num_active})
        await self._first(self._stop_now, timeout=self._config.drain_delay)
        self._state.phase = Phase.REFUSING
        await self._first(self._stop_now, self._state.idle, timeout=self._config.shutdown_timeout)
        log.info("stopping", extra={"aborted_requests": self._engine.num_active})
        self._engine.abort_all()
        await self._first(self._state.idle, timeout=FAREWELL_SECONDS)

    async def _first(self, *events: asyncio.Event, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Return when one of the events is set or the time is up; EngineDeadError if the engine
        dies meanwhile.
        """
        waits = [asyncio.create_task(event.wait()) for event in (*events, self._engine.dead)]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._engine.dead.is_set():
            raise EngineDeadError(self._engine.reason)

    def _on_signal(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    def _fail(self, reason: str) -> int:
        log.error("exiting", extra={"reason": reason})
        write_termination_log(self._config.termination_log, reason)
        return 1


def write_termination_log(path: Path, reason: str) -> None:
    """Tell the kubelet why, where it looks: it shows in the pod's status. The file exists only
    in a pod.
    """
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_text(reason[:4096])
