"""How a connection ends: its client is heard to its end, but no longer than for a second.

A socket that is closed on bytes nobody has read resets the connection, and the client loses the
answer that it was closed after (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

# All that a client gets after its last answer, whatever it sends in it.
LINGER_SECONDS = 1
# A loop that comes so late to the end of a linger has not listened, and begins again; but not for ever.
_LATE_SECONDS = 0.2
_TRIES = 3
_CHUNK_BYTES = 1 << 16


class Lingering:
    """A socket that sends nothing more, and discards what comes until its client closes too."""

    def __init__(
        self,
        connection: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[], None],
    ) -> None:
        """Take over the non-blocking socket; `on_end` is called once when it has been closed."""
        self._connection = connection
        self._loop = loop
        self._on_end = on_end
        self._tries = _TRIES
        self._listen()
        loop.add_reader(connection, self._discard)
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # The client is gone.
            self._end()

    def _listen(self) -> None:
        self._tries -= 1
        self._timer = self._loop.call_later(LINGER_SECONDS, self._time_out)

    def _time_out(self) -> None:
        is_late = self._loop.time() > self._timer.when() + _LATE_SECONDS
        if is_late and self._tries:
            self._listen()
        else:
            self._end()

    def _discard(self) -> None:
        try:
            has_ended = not self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # The client has reset the connection.
            has_ended = True
        if has_ended:
            self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._connection)
        self._connection.close()
        self._on_end()
