"""What the API process and the engine process say to each other: msgspec over a ZMQ pair on a
private socket.

One `Update` per engine step carries everything that step brought to all requests.
"""

from __future__ import annotations

import msgspec

from pagoda_runtime.engine.output import Delta, Stats
from pagoda_runtime.engine.request import PoolingParams, SamplingParams


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
    """Engine → API: one step's deltas; without deltas it is the heartbeat, sent every second
    when idle.
    """

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

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
