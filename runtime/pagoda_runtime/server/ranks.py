"""Rank 0's end of the other ranks of a tensor-parallel group: start them, tell them each step, notice
their death.

All ranks run the same scheduler on the same messages, so before a step rank 0 has only to pass on what
came in since the last one, and the time. Nothing about the batch is sent; what the ranks exchange within
the step is the model's business (`model.group`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait

import msgspec

from pagoda_runtime import cgroup
from pagoda_runtime.config import EngineConfig, Rank
from pagoda_runtime.server import ipc

log = logging.getLogger("pagoda.engine")

# When a rank dies, those that wait for it fail too. So long is gathered who did.
_GATHER_SECONDS = 0.2


class Turn(msgspec.Struct, array_like=True):
    """Rank 0 → others: one step. messages: what the API process said since the last one, in order. now:
    `time.monotonic()` at rank 0, by which deadlines pass.
    """

    messages: list[ipc.ToEngine]
    now: float


encode_turn = msgspec.msgpack.Encoder().encode
decode_turn = msgspec.msgpack.Decoder(Turn).decode


class Ranks:
    """The other ranks; there are none if --tensor-parallel-size is 1.

    `on_death(reason)` is called, in a thread of its own, when one ends in whatever way: a step may be
    waiting for it and never return.
    """

    def __init__(self, config: EngineConfig, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._oom_kills = cgroup.oom_kills()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ends: dict[Connection, int] = {}
        self._watching = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._messages: list[ipc.ToEngine] = []
        self.first = Rank()
        if config.tensor_parallel_size > 1:
            self._start(config)

    def pass_on(self, messages: Sequence[ipc.ToEngine]) -> None:
        """Tell the others these with the next step."""
        if self._ends:
            self._messages += messages

    def begin_step(self) -> float:
        """Have the others begin a step; → the time by which all ranks compute it."""
        now = time.monotonic()
        if self._ends:
            turn = encode_turn(Turn(self._messages, now))
            self._messages = []
            for end in self._ends:
                end.send_bytes(turn)
        return now

    def settle(self) -> None:
        """To be called when this rank failed: return if it is not because another one died. That one's
        `on_death` is called meanwhile.
        """
        if self._watching.is_alive():
            self._watching.join(5 * _GATHER_SECONDS)

    def _start(self, config: EngineConfig) -> None:
        # Listening begins here, where it is known which port is free; it goes on when rank 0 has
        # imported torch, as the others do meanwhile.
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.first = Rank(0, port, listener.detach())
        for index in range(1, config.tensor_parallel_size):
            end, others_end = Pipe()
            with others_end:
                # By the main thread: to the kernel, which is to kill it with its parent, the parent is
                # the thread.
                self._processes[index] = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "pagoda_runtime.server.rank_process",
                        str(others_end.fileno()),
                        str(os.getpid()),
                        str(index),
                        str(port),
                        msgspec.json.encode(config).decode(),
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[others_end.fileno()],
                )
            self._ends[end] = index
            pid = self._processes[index].pid
            log.info("rank started", extra={"rank": index, "rank_pid": pid})
        self._watching.start()

    def _watch(self) -> None:
        """Wait for a rank to end and tell why. They say nothing but why they end."""
        words: dict[int, str] = {}
        killed: dict[int, str] = {}
        until: float | None = None
        while len(words) + len(killed) < len(self._ends):
            ended = {*words, *killed}
            alive = [end for end, index in self._ends.items() if index not in ended]
            left = None if until is None else max(0.0, until - time.monotonic())
            if not (ready := wait(alive, left)):
                break
            until = until or time.monotonic() + _GATHER_SECONDS
            for end in ready:
                assert isinstance(end, Connection)
                index = self._ends[end]
                try:
                    words[index] = f"rank {index}: {end.recv_bytes().decode()}"
                except (EOFError, OSError):
                    killed[index] = self._obituary(index)
        # Who had no time to say anything died first; the others' words are then about that.
        self._on_death(next(iter([*killed.values(), *words.values()])))

    def _obituary(self, index: int) -> str:
        code = self._processes[index].wait()
        if code == -signal.SIGKILL and cgroup.oom_kills() > self._oom_kills:
            return f"rank {index}: out of memory: the kernel killed it at its memory limit"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"rank {index} ended with {name}"
