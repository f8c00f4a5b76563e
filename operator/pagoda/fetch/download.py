"""Downloads a plan's files, a few at a time, until each is whole and right."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pagoda.fetch.disk import Folder, Partial
from pagoda.fetch.errors import FetchError, TransientError, WrongContentError
from pagoda.fetch.hub import Hub
from pagoda.fetch.plan import Plan, RemoteFile
from pagoda.fetch.progress import Progress
from pagoda.fetch.report import FailureReason

T = TypeVar("T")
LISTING = "listing"  # stands among the file names in progress; no file without a suffix is fetched

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryTimes:
    """Periods, in seconds."""

    base: float
    """The longest first delay; it doubles with each try that brings nothing."""
    cap: float
    deadline: float
    """A download that gets no further for so long is given up."""


class Retry:
    """Tries again what may pass, with growing delays, as long as the deadline lets it."""

    def __init__(self, progress: Progress, times: RetryTimes, endpoint: str):
        """Set up; `progress` says whether anything gets further."""
        self._progress = progress
        self._times = times
        self._endpoint = endpoint

    async def run(self, name: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt` until it succeeds.

        Args:
            name: the file, or what else is tried.
            attempt: raises TransientError for what is to be tried again.

        Raises:
            FetchError: the deadline has passed, or `attempt` raised it.
        """
        tries, said = 0, ""
        while True:
            before = self._progress.offset(name)
            self._progress.tries(name)
            try:
                return await attempt()
            except TransientError as error:
                tries = 1 if self._progress.offset(name) > before else tries + 1
                await self._wait(name, error, tries, is_news=str(error) != said)
                said = str(error)

    async def _wait(self, name: str, error: TransientError, tries: int, *, is_news: bool) -> None:
        left = self._times.deadline - self._progress.stalled_seconds()
        if left <= 0:
            raise FetchError(
                FailureReason.HUB_UNAVAILABLE,
                f"Nothing came from the hub {self._endpoint} for {self._times.deadline:.0f} s; last: "
                f"{error}. Check the network, its proxies and the hub's address.",
            ) from error
        bound = min(self._times.cap, self._times.base * 2.0 ** min(tries - 1, 30))
        delay = random.uniform(bound / 2, bound)
        if error.retry_after is not None:
            delay = max(delay, error.retry_after)
        if is_news:
            log.warning("trying again", extra={"file": name, "cause": str(error)})
        self._progress.waits(name, str(error))
        await asyncio.sleep(min(delay, left))


class Download:
    """Brings the files of one plan."""

    def __init__(self, hub: Hub, folder: Folder, plan: Plan, progress: Progress, retry: Retry):
        """Set up."""
        self._hub = hub
        self._folder = folder
        self._plan = plan
        self._progress = progress
        self._retry = retry

    async def run(self, parallel: int) -> None:
        """Download all files, at most `parallel` at a time.

        Raises:
            DiskFullError: no room is left.
            FetchError: a file cannot be had. What the others have stays on the disk.
        """
        pending = deque(self._plan.files)

        async def worker() -> None:
            while pending:
                await self._bring(pending.popleft())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(parallel):
                    group.create_task(worker())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _bring(self, file: RemoteFile) -> None:
        began = time.monotonic()
        partial = await in_thread(Partial, self._folder.path, file)
        try:
            await self._read_earlier_bytes(partial)
            await self._until_right(partial)
            await in_thread(partial.finish)
        finally:
            partial.close()
        self._progress.finished(file.name)
        seconds = round(time.monotonic() - began, 1)
        log.info("file is whole", extra={"file": file.name, "bytes": file.size, "seconds": seconds})

    async def _read_earlier_bytes(self, partial: Partial) -> None:
        name = partial.file.name
        while partial.left_to_read:
            self._progress.verifies(name)
            await in_thread(partial.read_more)
            self._progress.reached(name, partial.offset)

    async def _until_right(self, partial: Partial) -> None:
        name = partial.file.name
        for is_last in (False, True):
            try:
                await self._retry.run(name, lambda: self._stream(partial))
                if partial.is_right():
                    return
                cause = "it has another checksum"
            except WrongContentError as error:
                cause = str(error)
            log.warning(
                "wrong bytes", extra={"file": name, "cause": cause, "tries_again": not is_last}
            )
            await in_thread(partial.restart)
            self._progress.starts_over(name)
        raise FetchError(
            FailureReason.CHECKSUM_MISMATCH,
            f"{name} came twice with other bytes than the hub lists ({cause}). A mirror or a proxy on "
            "the way may have a damaged copy; the engine never sees it.",
        )

    async def _stream(self, partial: Partial) -> None:
        file = partial.file
        if partial.offset == file.size:
            return
        async with self._hub.read(self._plan.sha, file, partial.offset) as body:
            if body.offset != partial.offset:
                await in_thread(partial.restart)
            async for data in body.pieces:
                await in_thread(partial.append, data)
                self._progress.reached(file.name, partial.offset)
        if partial.offset < file.size:
            raise TransientError("the connection ended before the file did")


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run a blocking call in a thread, and let it end even when the caller is cancelled: a file is
    never closed under a running write."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
