"""One client for all sides: completions over HTTP, streamed, timed as a user would see them."""

import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

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
    # A connection per request: llama-server closes kept ones now and then.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=900)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        asked = [
            _ask(
                session,
                f"http://127.0.0.1:{server.port}/v1/completions",
                server.recipe.body(prompt, tokens, sampling),
                tokens,
            )
            for server, prompt in zip(servers, prompts, strict=True)
        ]
        return Wave(await asyncio.gather(*asked))


async def _ask(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], tokens: int
) -> Answer:
    sent = time.monotonic()
    first = 0.0
    usage: Mapping[str, Any] | None = None
    async with session.post(url, json=body) as response:
        if response.status != 200:
            raise WrongAnswerError(f"{url}: {response.status} {await response.text()}")
        async for line in response.content:
            # Most chunks are not read further: the client's time is the servers' time here.
            if not first and line.startswith(b"data: {") and _has_text(line):
                first = time.monotonic()
            if b'"completion_tokens"' in line:
                usage = json.loads(line.removeprefix(b"data: "))["usage"]
    last = time.monotonic()
    counted = usage["completion_tokens"] if usage else None
    if counted != tokens:
        raise WrongAnswerError(f"{url}: asked for {tokens} tokens, got {counted}")
    # One token can be half a character: then there is no text to wait for.
    return Answer(sent, first or last, last, tokens)


def _has_text(line: bytes) -> bool:
    choices = json.loads(line.removeprefix(b"data: ")).get("choices")
    return bool(choices and choices[0].get("text"))
