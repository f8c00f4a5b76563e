"""The API process's end of the engine: start it, feed it, hand each request its deltas, notice
its death.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from pagoda_runtime import cgroup
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.output import Delta, Stats
from pagoda_runtime.engine.request import FinishReason, SamplingParams
from pagoda_runtime.server import ipc

log = logging.getLogger("pagoda.api")


class EngineDeadError(Exception):
    """The engine process ended while a request was with it."""


class RequestRejectedError(Exception):
    """The engine refused this request; the message says why."""


class QueueFullError(Exception):
    """The engine's queue is at its bound; the message says by what."""


class OutOfMemoryError(Exception):
    """The engine had no memory for the request's next step."""


class DeadlineError(Exception):
    """The request's deadline passed before its answer was complete."""


_Event = (
    Delta
    | EngineDeadError
    | RequestRejectedError
    | QueueFullError
    | OutOfMemoryError
    | DeadlineError
)
_FAILURES: dict[FinishReason | None, type[DeadlineError | OutOfMemoryError]] = {
    FinishReason.TIMEOUT: DeadlineError,
    FinishReason.ERROR: OutOfMemoryError,
}


class EngineClient:
    """One engine process. `dead` is set, with a `reason`, as soon as it ends in any way but
    `close`.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_stats: Callable[[Stats], None],
        on_loading: Callable[[ipc.Progress | ipc.Warming], None],
        on_rejection: Callable[[str], None],
    ) -> None:
        self._config = config
        self._on_stats = on_stats
        self._on_loading = on_loading
        self._on_rejection = on_rejection
        self._streams: dict[str, asyncio.Queue[_Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._cleanup = contextlib.ExitStack()
        self._process: asyncio.subprocess.Process | None = None
        self._last_heard = time.monotonic()
        self.info: ipc.Loaded | None = None
        self.loaded = asyncio.Event()
        self.dead = asyncio.Event()
        self.reason = ""

    @property
    def pid(self) -> int | None:
        """Process id of the engine."""
        return self._process.pid if self._process else None

    @property
    def num_active(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    @property
    def silence(self) -> float:
        """Seconds since the engine last said anything: a heartbeat when idle, a step's deltas
        when not.
        """
        return time.monotonic() - self._last_heard

    async def start(self) -> None:
        """Start the process; `loaded` or `dead` follows."""
        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pagoda-"))
        address = f"ipc://{Path(folder) / 'engine'}"
        context = zmq.asyncio.Context()
        self._cleanup.callback(context.destroy, linger=0)
        self._socket = context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        config = msgspec.json.encode(dataclasses.asdict(self._config)).decode()
        self._oom_kills = cgroup.oom_kills()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # The working directory is no place to import from; the parent's own path is.
            "-m",
            "pagoda_runtime.server.engine_process",
            address,
            str(os.getpid()),
            config,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    async def generate(
        self, request_id: str, prompt_ids: list[int], params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """Yield the request's deltas up to the one with a finish_reason.

        Leaving early, by cancellation too, aborts the request in the engine, which frees its blocks
        before its next step.
        """
        if self.dead.is_set():
            raise EngineDeadError(self.reason)
        queue: asyncio.Queue[_Event] = asyncio.Queue()
        self._streams[request_id] = queue
        try:
            self._send(ipc.Submit(request_id, prompt_ids, params, time.monotonic()))
            while True:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if event.finish_reason is not None:
                    self._streams.pop(request_id, None)
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            if self._streams.pop(request_id, None) is not None:
                self._send(ipc.Abort([request_id]))

    def abort_all(self) -> None:
        """End every request now, with finish_reason `abort`."""
        ids = list(self._streams)
        for request_id in ids:
            self._deliver(request_id, Delta(request_id, [], FinishReason.ABORT))
        if ids:
            self._send(ipc.Abort(ids))

    def give_up(self, reason: str) -> None:
        """Declare an engine dead that does not answer any more, and end its process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._die(reason)

    async def close(self) -> None:
        """End the process, whatever it is doing: it keeps nothing that would need saving."""
        for task in self._tasks:
            task.cancel()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._cleanup.close()

    def _send(self, message: ipc.ToEngine) -> None:
        # Without a high-water mark the future is done at once; a dead engine's mail is nobody's.
        if not self.dead.is_set():
            self._socket.send(ipc.encode(message))

    def _deliver(self, request_id: str, event: _Event) -> None:
        # No stream: the request was aborted while this delta was on its way.
        if (queue := self._streams.get(request_id)) is not None:
            queue.put_nowait(event)

    async def _receive(self) -> None:
        while True:
            message = ipc.decode_from_engine(await self._socket.recv())
            self._last_heard = time.monotonic()
            match message:
                case ipc.Update():
                    self._on_stats(message.stats)
                    for delta in message.deltas:
                        failure = _FAILURES.get(delta.finish_reason)
                        self._deliver(delta.id, delta if failure is None else failure())
                case ipc.Progress() | ipc.Warming():
                    self._on_loading(message)
                case ipc.Rejected():
                    if message.bound:
                        self._on_rejection(message.bound)
                    kind = QueueFullError if message.bound else RequestRejectedError
                    self._deliver(message.id, kind(message.message))
                case ipc.Loaded():
                    self.info = message
                    self.loaded.set()
                case ipc.Fatal():
                    self._die(message.message)

    async def _watch(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        # Its last words may still be in the socket.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.dead.wait(), 0.5)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL and cgroup.oom_kills() > self._oom_kills:
            self._die("out of memory: the kernel killed the engine process at its memory limit")
        self._die(f"the engine process ended with {name}")

    def _die(self, reason: str) -> None:
        if self.dead.is_set():
            return
        self.reason = reason
        self.dead.set()
        for queue in self._streams.values():
            queue.put_nowait(EngineDeadError(reason))
        self._streams.clear()
