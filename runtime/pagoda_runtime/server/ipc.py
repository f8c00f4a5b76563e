"""What the API process and the engine process say to each other: msgspec over a pair of sockets that
only they have, each message behind its length.

One `Update` per engine step carries everything that step brought to all requests. A bare socket and no
messaging library: an API process that wakes for a token finds nothing of its code in the caches, so
what counts is how much of it there is (docs/benchmarks.md).
"""

from __future__ import annotations

import msgspec

from pagoda_runtime.engine.output import Delta, Stats
from pagoda_runtime.engine.request import PoolingParams, SamplingParams

HEARTBEAT_SECONDS = 1.0  # what an idle engine sends an `Update` after


class Submit(msgspec.Struct, tag=True, array_like=True):
    """API → engine: a new request. arrival is `time.monotonic()` in the API process (one clock
    per machine).
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams | PoolingParams
    arrival: float


class Abort(msgspec.Struct, tag=True, array_like=True):
    """API → engine: forget these requests."""

    ids: list[str]


class Progress(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: how far the model is loaded, in bytes of weights."""

    loaded_bytes: int
    total_bytes: int


class Warming(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: the model is loaded; the self-test begins."""


class Loaded(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: the model is loaded and has generated its first token."""

    max_model_len: int
    vocab_size: int
    seconds: float


class Update(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: one step's deltas; without deltas it is the heartbeat of an idle engine."""

    deltas: list[Delta]
    stats: Stats


class Accepted(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: these requests are in the queue. Sent before anything else about them, so that
    a client need not wait for its first token to know that it is served.
    """

    ids: list[str]


class Rejected(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: a request the engine will not run: never, or not now because its queue is full;
    then `bound` names what bounds it.
    """

    id: str
    message: str
    bound: str = ""


class Fatal(msgspec.Struct, tag=True, array_like=True):
    """Engine → API: last words before the engine process ends with an error."""

    message: str


ToEngine = Submit | Abort
FromEngine = Progress | Warming | Loaded | Accepted | Update | Rejected | Fatal

_LENGTH_BYTES = 4

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


def frame(message: ToEngine | FromEngine) -> bytes:
    """A message as it goes through the socket."""
    body = encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


class Frames:
    """Cuts what comes out of the socket into messages, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def has_begun(self) -> bool:
        """True if a message is here in part."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now, still encoded."""
        data = self._rest + data
        messages, begin = [], 0
        while len(data) - begin >= _LENGTH_BYTES:
            body = begin + _LENGTH_BYTES
            end = body + int.from_bytes(data[begin:body], "little")
            if end > len(data):
                break
            messages.append(data[body:end])
            begin = end
        self._rest = data[begin:]
        return messages
