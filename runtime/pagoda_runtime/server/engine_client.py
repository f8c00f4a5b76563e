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
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from pagoda_runtime import cgroup
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.output import Delta, Stats
from pagoda_runtime.engine.request import FinishReason
from pagoda_runtime.server import ipc
from pagoda_runtime.server.pace import Pace

log = logging.getLogger("pagoda.api")


class EngineDeadError(Exception):
    """The engine process ended while a request was with it."""


class RequestRejectedError(Exception):
    """The engine refused this request; the message says why."""


class QueueFullError(Exception):
    """The engine's queue is at its bound; the message says by what. retry_after: seconds until it
    has probably drained.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutOfMemoryError(Exception):
    """The engine had no memory for the request's next step."""


class DeadlineError(Exception):
    """The request's deadline passed before its answer was complete."""


ENGINE_ERRORS = (
    EngineDeadError,
    RequestRejectedError,
    QueueFullError,
    OutOfMemoryError,
    DeadlineError,
)
EngineError = (
    EngineDeadError | RequestRejectedError | QueueFullError | OutOfMemoryError | DeadlineError
)
# Ends of a request that are no answer's.
_FAILURES: dict[FinishReason | None, type[DeadlineError | OutOfMemoryError]] = {
    FinishReason.TIMEOUT: DeadlineError,
    FinishReason.ERROR: OutOfMemoryError,
}


class Stream:
    """Requests that belong together, and what the engine says about them, in its order.

    A context manager: entering submits them; leaving, by cancellation too, aborts those that have
    not ended, which frees their blocks before the engine's next step.
    """

    def __init__(self, client: EngineClient, requests: Sequence[ipc.Submit]) -> None:
        self._client = client
        self._requests = requests
        self._events: deque[Delta | EngineError] = deque()
        self._news = asyncio.Event()
        self._unheard = {request.id for request in requests}
        self._heard = asyncio.Event()
        self._refusal: EngineError | None = None

    def __enter__(self) -> Stream:
        self._client.open(self, self._requests)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.leave([request.id for request in self._requests])

    async def accepted(self) -> None:
        """Return when the engine has taken all of them; raise if it refuses one."""
        await self._heard.wait()
        if self._refusal is not None:
            raise self._refusal

    async def next(self) -> Delta:
        """The next delta of any of them; raise if one cannot be answered."""
        while not self._events:
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if isinstance(event, Exception):
            raise event
        if event.finish_reason is not None:
            self._client.forget(event.id)
        return event

    def was_accepted(self, request_id: str) -> bool:
        """True if the engine has taken this one."""
        return request_id not in self._unheard

    def on_accepted(self, request_id: str) -> None:
        """The engine has this one."""
        self._unheard.discard(request_id)
        if not self._unheard:
            self._heard.set()

    def on_delta(self, delta: Delta) -> None:
        """The engine brought something."""
        self._events.append(delta)
        self._news.set()

    def on_error(self, error: EngineError) -> None:
        """One will not be answered, so the whole is not."""
        self._refusal = error
        self._heard.set()
        self._events.append(error)
        self._news.set()


class _Connection(asyncio.Protocol):
    """The API process's end of the socket."""

    def __init__(self, on_message: Callable[[ipc.FromEngine], None]) -> None:
        self._on_message = on_message
        self._frames = ipc.Frames()
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._on_message(ipc.decode_from_engine(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


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
        self._streams: dict[str, Stream] = {}
        self._pace = Pace()
        self._waiting = 0
        self._watching: asyncio.Task[None] | None = None
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
        ours, theirs = socket.socketpair()
        self._transport, self._connection = await asyncio.get_running_loop().create_unix_connection(
            lambda: _Connection(self._on_message), sock=ours
        )
        config = msgspec.json.encode(dataclasses.asdict(self._config)).decode()
        self._oom_kills = cgroup.oom_kills()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # The working directory is no place to import from; the parent's own path is.
                "-m",
                "pagoda_runtime.server.engine_process",
                str(theirs.fileno()),
                str(os.getpid()),
                config,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._watching = asyncio.create_task(self._watch())

    def stream(self, requests: Sequence[ipc.Submit]) -> Stream:
        """Requests to be submitted together. Their ids must be new."""
        return Stream(self, requests)

    def open(self, stream: Stream, requests: Sequence[ipc.Submit]) -> None:
        """Submit a stream's requests; EngineDeadError if there is no engine any more."""
        if self.dead.is_set():
            raise EngineDeadError(self.reason)
        for request in requests:
            self._streams[request.id] = stream
            self._send(request)

    def leave(self, ids: Sequence[str]) -> None:
        """Nobody waits for these any more: abort those that have not ended."""
        if left := [request_id for request_id in ids if self.forget(request_id)]:
            self._send(ipc.Abort(left))

    def forget(self, request_id: str) -> bool:
        """A request is over; False if it was already."""
        stream = self._streams.pop(request_id, None)
        if stream is not None and stream.was_accepted(request_id):
            self._pace.ended()
        return stream is not None

    def abort_all(self) -> None:
        """End every request now, with finish_reason `abort`."""
        ids = list(self._streams)
        for request_id in ids:
            self._streams[request_id].on_delta(Delta(request_id, [], FinishReason.ABORT))
        if ids:
            self._send(ipc.Abort(ids))

    def give_up(self, reason: str) -> None:
        """Declare an engine dead that does not answer any more, and end its process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._die(reason)

    async def close(self) -> None:
        """End the process, whatever it is doing: it keeps nothing that would need saving."""
        if self._watching is not None:
            self._watching.cancel()
            self._transport.abort()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _send(self, message: ipc.ToEngine) -> None:
        # Kept until the engine reads it, between two steps; a dead engine's mail is nobody's.
        if not self.dead.is_set():
            self._transport.write(ipc.frame(message))

    def _on_message(self, message: ipc.FromEngine) -> None:
        self._last_heard = time.monotonic()
        match message:
            # Without a stream a request was aborted while this was on its way.
            case ipc.Update():
                self._waiting = message.stats.waiting
                self._on_stats(message.stats)
                for delta in message.deltas:
                    if (stream := self._streams.get(delta.id)) is None:
                        continue
                    if failure := _FAILURES.get(delta.finish_reason):
                        stream.on_error(failure())
                    else:
                        stream.on_delta(delta)
            case ipc.Progress() | ipc.Warming():
                self._on_loading(message)
            case ipc.Accepted():
                for request_id in message.ids:
                    if (stream := self._streams.get(request_id)) is not None:
                        self._pace.began()
                        stream.on_accepted(request_id)
            case ipc.Rejected():
                if message.bound:
                    self._on_rejection(message.bound)
                if (stream := self._streams.get(message.id)) is not None:
                    stream.on_error(self._rejection(message))
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
            await asyncio.wait_for(self._connection.closed.wait(), 0.5)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL and cgroup.oom_kills() > self._oom_kills:
            self._die("out of memory: the kernel killed the engine process at its memory limit")
        self._die(f"the engine process ended with {name}")

    def _die(self, reason: str) -> None:
        if self.dead.is_set():
            return
        self.reason = reason
        self.dead.set()
        for stream in set(self._streams.values()):
            stream.on_error(EngineDeadError(reason))
        self._streams.clear()

    def _rejection(self, message: ipc.Rejected) -> QueueFullError | RequestRejectedError:
        if message.bound:
            return QueueFullError(message.message, self._pace.seconds(self._waiting))
        return RequestRejectedError(message.message)
