"""Requests that do not wait for answers: a steady stream, a new connection each, and long streams."""

import http.client
import json
import threading
import time
from types import TracebackType
from typing import Any

MARGIN_SECONDS = 60.0  # beside the length of a stream, before a request counts as hung


class Load:
    """Sends until it is left, then waits for the answers to what was sent."""

    def __init__(
        self,
        host: str,
        *,
        step_ms: int,
        stream_seconds: float,
        rate: float = 10.0,
        streams: int = 4,
    ):
        """Prepare.

        Args:
            host: the Service's address, port 80.
            step_ms: what the engine was given as --min-step-ms, so that lengths can be told.
            stream_seconds: how long a streamed answer lasts.
            rate: short requests per second, however long their answers take.
            streams: streamed answers at a time.
        """
        self.sent = 0
        self.answered = 0
        self.failures: list[str] = []
        self.stream_lengths: list[float] = []
        self._host = host
        self._timeout = stream_seconds + MARGIN_SECONDS
        self._tokens = int(stream_seconds * 1000 / step_ms)
        self._rate = rate
        self._open: set[int] = set()
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._tick)]
        self._threads += [
            threading.Thread(target=self._stream_on, args=(n,)) for n in range(streams)
        ]

    @property
    def open_streams(self) -> int:
        """How many streamed answers have begun and not ended."""
        return len(self._open)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _tick(self) -> None:
        short: list[threading.Thread] = []
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 1 / self._rate
            short.append(threading.Thread(target=self._ask))
            short[-1].start()
            self.sent += 1
        for thread in short:
            thread.join()

    def _ask(self) -> None:
        begun = time.monotonic()
        try:
            answer = self._post({"max_tokens": 4})
            body = answer.read()
            if answer.status != 200:
                raise OSError(f"{answer.status} {body[:200]!r}")
            self.answered += 1
        except (OSError, http.client.HTTPException) as error:
            self._fail("request", begun, error)

    def _stream_on(self, number: int) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self._stream(number)
                self.stream_lengths.append(time.monotonic() - begun)
            except (OSError, http.client.HTTPException) as error:
                self._fail("stream", begun, error)
            finally:
                self._open.discard(number)

    def _stream(self, number: int) -> None:
        answer = self._post({"max_tokens": self._tokens, "ignore_eos": True, "stream": True})
        if answer.status != 200:
            raise OSError(f"{answer.status} {answer.read()[:200]!r}")
        events: list[bytes] = []
        while line := answer.readline():
            self._open.add(number)
            if line.startswith(b"data: "):
                events.append(line.removeprefix(b"data: ").strip())
        if events[-1:] != [b"[DONE]"]:
            raise OSError(f"cut off after {len(events)} events")
        finish = json.loads(events[-2])["choices"][0]["finish_reason"]
        if finish != "length":  # an engine that had to give up says so in its last event
            raise OSError(f"ended by {finish!r} after {len(events)} events")

    def _post(self, fields: dict[str, Any]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout)
        body = json.dumps({"model": "toy", "prompt": "x"} | fields)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", "/v1/completions", body, headers)
        return connection.getresponse()

    def _fail(self, what: str, begun: float, error: Exception) -> None:
        now = time.monotonic()
        self.failures.append(
            f"{what} of second {begun - self._begun:.1f}, after {now - begun:.1f} s: {error!r}"
        )
