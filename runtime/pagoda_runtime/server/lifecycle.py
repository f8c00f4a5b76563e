"""From start to exit code: load, serve, drain on SIGTERM, end with an error when the engine
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from pagoda_runtime.config import ConfigError, ServeConfig
from pagoda_runtime.model.spec import read_spec
from pagoda_runtime.server.api.context import Api
from pagoda_runtime.server.app import application
from pagoda_runtime.server.engine_client import EngineClient, EngineDeadError
from pagoda_runtime.server.metrics import Metrics
from pagoda_runtime.server.probes import Probes
from pagoda_runtime.server.state import Phase, ReplicaState
from pagoda_runtime.server.text import TextModel

log = logging.getLogger("pagoda.api")

# How long streams get to carry the error of a dead engine, and connections to close at the end.
_FAREWELL_SECONDS = 1


def run(config: ServeConfig) -> int:
    """Serve until told to stop; return the process's exit code."""
    return asyncio.run(Lifecycle(config).run())


class Lifecycle:
    """One run of the server."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._begun = time.monotonic()
        self._state = ReplicaState()
        metrics = Metrics(config.model_names[0])
        self._engine = EngineClient(config.engine, metrics.on_stats)
        tell = partial(write_termination_log, config.termination_log)
        self._api = Api(config, self._engine, self._state, metrics)
        self._probes = Probes(self._engine, self._state, metrics, config.step_timeout, tell)
        self._stop = asyncio.Event()  # the first SIGTERM
        self._stop_now = asyncio.Event()  # the second one

    async def run(self) -> int:
        """Serve; 0 after a drain, 1 if the engine or the start failed."""
        try:
            listener = socket.create_server((self._config.host, self._config.port), backlog=2048)
        except OSError as error:
            return self._fail(f"cannot listen on {self._config.host}:{self._config.port}: {error}")
        http = _HttpServer(application(self._api, self._probes), self._config.max_body_bytes)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        log.info("listening", extra={"host": self._config.host, "port": listener.getsockname()[1]})
        try:
            await self._load()
            await self._first(self._stop)
            await self._drain()
            return 0
        except (ConfigError, EngineDeadError) as error:
            self._state.phase = Phase.DEAD
            # Streams get their error event first.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state.idle.wait(), _FAREWELL_SECONDS)
            return self._fail(str(error))
        finally:
            http.should_exit = True
            await serving
            await self._engine.close()

    async def _load(self) -> None:
        """Read the tokenizer here while the engine loads the weights over there."""
        await self._engine.start()
        log.info("engine started", extra={"engine_pid": self._engine.pid})
        model_dir = Path(self._config.engine.model)
        # The engine would find this too, but only after it has imported torch.
        await asyncio.to_thread(read_spec, model_dir)
        self._api.text = await asyncio.to_thread(TextModel, model_dir)
        await self._first(self._engine.loaded, self._stop)
        if self._stop.is_set():
            return
        self._state.phase = Phase.READY
        log.info("ready", extra={"seconds": round(time.monotonic() - self._begun, 3)})

    async def _drain(self) -> None:
        """Go without losing a request: unready first, refuse later, abort what is left at the
        end.
        """
        if self._state.phase is not Phase.READY:
            return
        self._state.phase = Phase.DRAINING
        log.info("draining", extra={"requests": self._engine.num_active})
        await self._first(self._stop_now, timeout=self._config.drain_delay)
        self._state.phase = Phase.REFUSING
        await self._first(self._stop_now, self._state.idle, timeout=self._config.shutdown_timeout)
        log.info("stopping", extra={"aborted_requests": self._engine.num_active})
        self._engine.abort_all()
        await self._first(self._state.idle, timeout=_FAREWELL_SECONDS)

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


class _HttpServer(uvicorn.Server):
    """uvicorn without its own idea of signals."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws_max_size=max_body_bytes,
                ws_per_message_deflate=False,  # Costs more per token than the token.
                # Longer than proxies keep idle connections, so that they close first.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_FAREWELL_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM to the lifecycle."""
        yield
