"""The engine process: `python -m pagoda_runtime.server.engine_process ADDRESS PARENT_PID
CONFIG_JSON`.

It lives and dies with the API process that started it, and takes work only from its private socket.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import zmq

from pagoda_runtime import cgroup, logs
from pagoda_runtime.config import ConfigError, EngineConfig
from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.scheduler import QueueFullError
from pagoda_runtime.server import ipc

if TYPE_CHECKING:
    from pagoda_runtime.engine.core import EngineCore

log = logging.getLogger("pagoda.engine")

HEARTBEAT_MS = 1000
_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Load the model, then serve until the parent ends us."""
    address, parent_pid, config_json = argv
    die_with_parent(int(parent_pid))
    # Ctrl-C in a terminal reaches the whole process group; when to stop is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = msgspec.json.decode(config_json, type=EngineConfig)
    logs.configure(config.log_level)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    socket.set_hwm(0)
    socket.connect(address)
    try:
        serve(config, socket)
    except Exception as error:
        if isinstance(error, ConfigError):
            reason = str(error)
            log.error("engine cannot start", extra={"reason": reason})
        else:
            reason = f"{type(error).__name__}: {error}"
            log.exception("engine failed")
        socket.send(ipc.encode(ipc.Fatal(reason)))
        socket.close(linger=1000)
    return 1


def serve(config: EngineConfig, socket: zmq.Socket[bytes]) -> None:
    """Run engine steps for ever; returns only by an exception."""
    begun = time.monotonic()
    # Seconds. Here and not at the top, so that what goes wrong in it reaches the parent too.
    from pagoda_runtime.engine.build import build_engine

    def tell(loaded: int, total: int) -> None:
        socket.send(ipc.encode(ipc.Progress(loaded, total)))

    core, size, spec = build_engine(config, tell)
    socket.send(ipc.encode(ipc.Warming()))
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
    socket.send(ipc.encode(ipc.Loaded(size.max_model_len, spec.vocab_size, seconds)))
    while True:
        changed = _receive(core, socket)
        if core.has_work:
            deadline = time.monotonic() + config.min_step_ms / 1000
            update = ipc.Update(*core.step())
            time.sleep(max(0.0, deadline - time.monotonic()))
            socket.send(ipc.encode(update))
        else:
            # Also after an abort, so that freed blocks show at once.
            socket.send(ipc.encode(ipc.Update([], core.stats())))
            if not changed:
                socket.poll(HEARTBEAT_MS)


def _receive(core: EngineCore, socket: zmq.Socket[bytes]) -> bool:
    """Take every message that has arrived; True if there was one."""
    changed = False
    accepted: list[str] = []
    while socket.poll(0):
        changed = True
        message = ipc.decode_to_engine(socket.recv())
        if isinstance(message, ipc.Abort):
            core.abort(message.ids)
            continue
        try:
            core.add(Request(message.id, message.prompt_ids, message.params, message.arrival))
            accepted.append(message.id)
        except (ValueError, QueueFullError) as error:
            bound = error.bound if isinstance(error, QueueFullError) else ""
            socket.send(ipc.encode(ipc.Rejected(message.id, str(error), bound)))
    if accepted:
        socket.send(ipc.encode(ipc.Accepted(accepted)))
    return changed


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent goes, however it goes: no orphan keeps
    the memory.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # It went before the line above.
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
