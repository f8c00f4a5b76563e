"""The engine process: `python -m pagoda_runtime.server.engine_process FD PARENT_PID CONFIG_JSON`.

It lives and dies with the API process that started it, and takes work only from the socket FD that it
inherits from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pagoda_runtime import cgroup, logs
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.scheduler import QueueFullError
from pagoda_runtime.server import ipc
from pagoda_runtime.server.ranks import Ranks

if TYPE_CHECKING:
    from pagoda_runtime.engine.core import EngineCore

log = logging.getLogger("pagoda.engine")

_READ_BYTES = 1 << 18
_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Load the model, then serve until the parent ends us."""
    descriptor, parent_pid, config_json = argv
    die_with_parent(int(parent_pid))
    # Ctrl-C in a terminal reaches the whole process group; when to stop is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = msgspec.json.decode(config_json, type=EngineConfig)
    logs.configure(config.log_level)
    parent = Parent(int(descriptor))

    def on_death(reason: str) -> None:
        # At once: the step that waits for that rank may never return.
        log.error("a rank died", extra={"reason": reason})
        with contextlib.suppress(OSError):
            parent.tell(ipc.Fatal(reason))
        os._exit(1)

    ranks = Ranks(config, on_death)
    try:
        serve(config, parent, ranks)
    except Exception as error:
        ranks.settle()
        if isinstance(error, ConfigError):
            reason = str(error)
            log.error("engine cannot start", extra={"reason": reason})
        else:
            reason = f"{type(error).__name__}: {error}"
            log.exception("engine failed")
        with contextlib.suppress(OSError):
            parent.tell(ipc.Fatal(reason))
    return 1


class Parent:
    """The API process, through the socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._frames = ipc.Frames()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._telling = threading.Lock()

    def tell(self, message: ipc.FromEngine) -> None:
        """Send a message, from any thread. Waits only while the API process has 200 KB or so left to
        read.
        """
        with self._telling:
            self._socket.sendall(ipc.frame(message))

    def heard(self, patience: float = 0.0) -> list[ipc.ToEngine]:
        """What it has said; if nothing yet, what it says within so many seconds."""
        messages: list[ipc.ToEngine] = []
        # What has begun is on its way: waiting for the rest is shorter than another step.
        while self._frames.has_begun or self._poll.poll(patience * 1000):
            patience = 0.0
            if not (data := self._socket.recv(_READ_BYTES)):
                raise ConnectionAbortedError("the API process is gone")
            messages += map(ipc.decode_to_engine, self._frames.feed(data))
        return messages


def serve(config: EngineConfig, parent: Parent, ranks: Ranks) -> None:
    """Run engine steps for ever; returns only by an exception."""
    begun = time.monotonic()
    # Seconds. Here and not at the top, so that what goes wrong in it reaches the parent too.
    from pagoda_runtime.engine.build import build_engine

    def tell(loaded: int, total: int) -> None:
        parent.tell(ipc.Progress(loaded, total))

    core, size, spec = build_engine(config, tell, ranks.first)
    parent.tell(ipc.Warming())
    core.self_test()
    seconds = time.monotonic() - begun
    log.info(
        "model loaded",
        extra={
            "seconds": round(seconds, 3),
            "threads": cgroup.thread_count(),
            "kv_blocks": size.num_blocks,
            "max_model_len": size.max_model_len,
        },
    )
    parent.tell(ipc.Loaded(size.max_model_len, spec.vocab_size, seconds))
    shortest = config.min_step_ms / 1000
    messages: list[ipc.ToEngine] = []
    while True:
        _take(core, messages, parent)
        ranks.pass_on(messages)
        if core.has_work:
            begun = ranks.begin_step()
            update = ipc.Update(*core.step(begun))
            if (left := begun + shortest - time.monotonic()) > 0:
                time.sleep(left)
            parent.tell(update)
            messages = parent.heard()
        else:
            # Also after an abort, so that freed blocks show at once.
            parent.tell(ipc.Update([], core.stats()))
            messages = parent.heard(ipc.HEARTBEAT_SECONDS)


def _take(core: EngineCore, messages: Sequence[ipc.ToEngine], parent: Parent) -> None:
    accepted: list[str] = []
    for message in messages:
        if isinstance(message, ipc.Abort):
            core.abort(message.ids)
            continue
        try:
            core.add(Request(message.id, message.prompt_ids, message.params, message.arrival))
            accepted.append(message.id)
        except (ValueError, QueueFullError) as error:
            bound = error.bound if isinstance(error, QueueFullError) else ""
            parent.tell(ipc.Rejected(message.id, str(error), bound))
    if accepted:
        parent.tell(ipc.Accepted(accepted))


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent goes, however it goes: no orphan keeps
    the memory.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # It went before the line above.
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
