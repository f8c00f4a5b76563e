"""What the demo prints: lines with the seconds since its start, and a sign of life when it waits."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

_SIGN_OF_LIFE_SECONDS = 20.0


class StuckError(Exception):
    """Something did not become ready; the message says what and why."""


class Console:
    """Prints progress; usable from several threads."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._tasks: dict[str, float] = {}
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Console":
        self._heart.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._heart.join()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print one line with the time."""
        with self._lock:
            print(f"[{self.elapsed:4.0f} s] {text}", flush=True)

    def show(self, text: str = "") -> None:
        """Print text as it is."""
        with self._lock:
            print(text, flush=True)

    def stream(self, text: str) -> None:
        """Print a piece of a line at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """While it runs, a line now and then says that it still does; at the end, how long it took."""
        begun = time.monotonic()
        self._tasks[name] = begun
        try:
            yield
        finally:
            del self._tasks[name]
        self.say(f"{name}: done in {time.monotonic() - begun:.0f} s")

    def wait(self, probe: Callable[[], tuple[bool, str]], *, timeout: float) -> None:
        """Ask `probe` for (done, what it sees) until it is done; prints what it sees on a change.

        Raises:
            StuckError: not done in time, with what was seen last. `probe` may raise it earlier.
        """
        deadline = time.monotonic() + timeout
        last, printed = "", 0.0
        while True:
            done, seen = probe()
            now = time.monotonic()
            if seen != last or now - printed > _SIGN_OF_LIFE_SECONDS / 2:
                self.say(seen)
                last, printed = seen, now
            if done:
                return
            if now > deadline:
                raise StuckError(f"not ready after {timeout:.0f} s: {seen}")
            time.sleep(0.5)

    def _beat(self) -> None:
        while not self._closed.wait(_SIGN_OF_LIFE_SECONDS):
            now = time.monotonic()
            tasks = [f"{name} ({now - begun:.0f} s)" for name, begun in list(self._tasks.items())]
            if tasks:
                self.say(f"… still at work on {', '.join(tasks)}")
