"""One client for all sides: completions over HTTP, streamed, timed as a user would see them."""

import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.runtime.servers import Server
from tests.bench.runtime.vocabulary import Prompt

GREEDY: Mapping[str, float] = {"temperature": 0}
SAMPLED: Mapping[str, float] = {"temperature": 0.8, "top_p": 0.95}


class WrongAnswerError(Exception):
    """A side did not do the work that is measured; the message says which."""


@dataclass(frozen=True)
class Answer:
    """One finished stream; times by the monotonic clock."""

    sent: float
    first: float  # the first chunk with text
    last: float
    tokens: int


@dataclass(frozen=True)
class Wave:
    """Requests that were sent at once."""

    answers: Sequence[Answer]

    @property
    def rate(self) -> float:
        """Output tokens per second, from the first request sent to the last answer's end."""
        seconds = max(a.last for a in self.answers) - min(a.sent for a in self.answers)
        return sum(a.tokens for a in self.answers) / seconds

    @property
    def ttft(self) -> float:
        """Median seconds from a request sent to its first text."""
        return statistics.median(a.first - a.sent for a in self.answers)

    @property
    def decode_rate(self) -> float:
        """Median tokens per second of one stream after its first text, without the prompt."""
        return statistics.median((a.tokens - 1) / (a.last - a.first) for a in self.answers)


def wave(
    server: Server, prompts: Sequence[Prompt], tokens: int, sampling: Mapping[str, float] = GREEDY
) -> Wave:
    """Send all prompts at once and wait for the whole answers, each of `tokens` tokens.

    Raises:
        WrongAnswerError: an answer is an error, or has another length.
    """
    return spread([server] * len(prompts), prompts, tokens, sampling)


def spread(
    servers: Sequence[Server],
    prompts: Sequence[Prompt],
    tokens: int,
    sampling: Mapping[str, float] = GREEDY,
) -> Wave:
    """The same, each prompt to its own server."""
    return asyncio.run(_spread(servers, prompts, tokens, sampling))


async def _spread(
    servers: Sequence[Server], prompts: Sequence[Prompt], tokens: int, sampling: Mapping[str, float]
) -> Wave:
    asked = [
        _ask(server.port, server.recipe.body(prompt, tokens, sampling), tokens)
        for server, prompt in zip(servers, prompts, strict=True)
    ]
    async with asyncio.timeout(900):
        return Wave(await asyncio.gather(*asked))


async def _ask(port: int, body: Mapping[str, Any], tokens: int) -> Answer:
    loop = asyncio.get_running_loop()
    sent = time.monotonic()
    _, stream = await loop.create_connection(
        lambda: _Stream(_request(port, body)), "127.0.0.1", port
    )
    await stream.ended
    return stream.answer(sent, tokens)


def _request(port: int, body: Mapping[str, Any]) -> bytes:
    # A connection per request: llama-server closes kept ones now and then.
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class _Stream(asyncio.Protocol):
    """A request and what comes back. The client's time is the servers' time here, so it is only kept,
    and read when all of it is there.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._pieces: list[tuple[float, bytes]] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)

    def answer(self, sent: float, tokens: int) -> Answer:
        """What was measured; WrongAnswerError unless it has so many tokens."""
        received = b"".join(data for _, data in self._pieces)
        if not received.startswith(b"HTTP/1.1 200 "):
            raise WrongAnswerError(received.decode(errors="replace"))
        first, counted, end = 0.0, None, 0
        for line in received.splitlines(keepends=True):
            end += len(line)
            if line.startswith(b"data: {"):  # the lines between are HTTP's chunks
                event = json.loads(line.removeprefix(b"data: "))
                if not first and any(choice.get("text") for choice in event.get("choices", ())):
                    first = self._time_of(end)
                counted = (event.get("usage") or {}).get("completion_tokens", counted)
        if counted != tokens:
            end_of_it = received[-500:].decode(errors="replace")
            raise WrongAnswerError(f"asked for {tokens} tokens, got {counted}: {end_of_it}")
        last = self._pieces[-1][0]
        # One token can be half a character: then there is no text to wait for.
        return Answer(sent, first or last, last, tokens)

    def _time_of(self, end: int) -> float:
        """When the first so many bytes were there."""
        for moment, data in self._pieces:
            end -= len(data)
            if end <= 0:
                return moment
        raise AssertionError("more than was received")
