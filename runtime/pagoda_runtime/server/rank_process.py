"""Every rank of a tensor-parallel group but the first: `python -m pagoda_runtime.server.rank_process FD
PARENT_PID RANK PORT CONFIG_JSON`.

It lives and dies with rank 0, the engine process, and hears of each step through the socket FD that it
inherits from there. It says nothing but, in the end, why it ends.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from multiprocessing.connection import Connection

import msgspec

from pagoda_runtime import logs
from pagoda_runtime.config import ConfigError, EngineConfig, Rank
from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.scheduler import QueueFullError
from pagoda_runtime.server import ipc
from pagoda_runtime.server.engine_process import die_with_parent
from pagoda_runtime.server.ranks import decode_turn

log = logging.getLogger("pagoda.engine")


def main(argv: list[str]) -> int:
    """Load the rank's part of the model, then compute steps until rank 0 ends us."""
    descriptor, parent_pid, index, port, config_json = argv
    die_with_parent(int(parent_pid))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = msgspec.json.decode(config_json, type=EngineConfig)
    rank = Rank(int(index), int(port))
    logs.configure(config.log_level, lambda: {"rank": rank.index})
    first = Connection(int(descriptor))
    try:
        follow(config, rank, first)
    except Exception as error:
        reason = (
            str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        )
        log.exception("rank failed")
        with contextlib.suppress(OSError):
            first.send_bytes(reason.encode())
    return 1


def follow(config: EngineConfig, rank: Rank, first: Connection) -> None:
    """Do what rank 0 does, for ever; returns only by an exception."""
    # Seconds. Here and not at the top, so that what goes wrong in it reaches rank 0 too.
    from pagoda_runtime.engine.build import build_engine

    core, _, _ = build_engine(config, rank=rank)
    core.self_test()
    while True:
        turn = decode_turn(first.recv_bytes())
        for message in turn.messages:
            if isinstance(message, ipc.Abort):
                core.abort(message.ids)
                continue
            # Rank 0 refuses the same, and tells the client.
            with contextlib.suppress(ValueError, QueueFullError):
                core.add(Request(message.id, message.prompt_ids, message.params, message.arrival))
        core.step(turn.now)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
