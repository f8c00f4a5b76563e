"""Runs one download: from the command line's options to an exit code."""

import asyncio
import logging
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from pagoda.fetch.answers import TOKEN_KEY, Question
from pagoda.fetch.disk import Folder, Origin
from pagoda.fetch.download import LISTING, Download, Retry, RetryTimes, in_thread
from pagoda.fetch.errors import DiskFullError, FetchError
from pagoda.fetch.hub import Hub
from pagoda.fetch.plan import make_plan, repository
from pagoda.fetch.progress import Progress
from pagoda.fetch.redact import Redactor
from pagoda.fetch.report import Failure, FailureReason, termination_message
from pagoda.fetch.server import serving

STOPPED = 128 + signal.SIGTERM  # what a shell gives for it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line and the environment say."""

    uri: str
    revision: str
    target: Path
    endpoint: str
    """The hub's address without a slash at its end."""
    token: str | None = field(repr=False)
    progress_port: int
    termination_log: Path | None
    parallel: int
    read_seconds: float
    retry: RetryTimes


def main(options: Options) -> int:
    """Download the model; returns the exit code."""
    redact = Redactor(options.token)
    _redact_logs(redact)
    try:
        return asyncio.run(_until_stopped(options, redact))
    except FetchError as error:
        failed = Failure(error.failure.reason, redact(error.failure.message))
        log.error("failed", extra={"reason": failed.reason, "cause": failed.message})
    except Exception as error:
        log.exception("failed")
        text = redact(f"The download ended with a fault: {type(error).__name__}: {error}")
        failed = Failure(FailureReason.FETCH_FAILED, text)
    if options.termination_log is not None:
        try:
            options.termination_log.write_text(termination_message(failed))
        except OSError as error:
            log.warning("the reason could not be left", extra={"cause": str(error)})
    return 1


async def _until_stopped(options: Options, redact: Redactor) -> int:
    download = asyncio.create_task(_download(options, redact))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, download.cancel)
    try:
        await download
    except asyncio.CancelledError:
        log.info("stopped; what is on the disk stays")
        return STOPPED
    return 0


async def _download(options: Options, redact: Redactor) -> None:
    folder = Folder(options.target, Origin(options.uri, options.revision))
    if commit := await in_thread(folder.complete_commit):
        log.info("the model is there already", extra={"commit": commit})
        return
    _check_token(options.token)
    progress = Progress()
    retry = Retry(progress, options.retry, options.endpoint)
    repo = repository(options.uri)
    asked = Question(options.endpoint, repo, options.revision, options.token is not None)
    began = time.monotonic()
    log.info("download starts", extra={"repository": repo, "revision": options.revision})
    async with (
        serving(progress, options.progress_port, redact),
        Hub(asked, options.token, options.read_seconds) as hub,
    ):
        plan = make_plan(repo, await retry.run(LISTING, hub.listing))
        progress.plan(plan.files)
        found = {"commit": plan.sha, "files": len(plan.files), "bytes": plan.size}
        log.info("commit found", extra=found)
        try:
            await in_thread(folder.prepare, plan)
            await Download(hub, folder, plan, progress, retry).run(options.parallel)
            await in_thread(folder.complete, plan)
        except DiskFullError as error:
            raise await in_thread(folder.explain_full, plan) from error
    log.info("model is complete", extra={"seconds": round(time.monotonic() - began, 1)})


def _check_token(token: str | None) -> None:
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise FetchError(
            FailureReason.MODEL_ACCESS_DENIED,
            f"The token has characters that no token has. Correct {TOKEN_KEY}.",
        )


class _RedactingFormatter(logging.Formatter):
    """Formats as another one does, and masks secrets in the result, tracebacks included."""

    def __init__(self, inner: logging.Formatter, redact: Redactor):
        super().__init__()
        self._inner = inner
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(self._inner.format(record))


def _redact_logs(redact: Redactor) -> None:
    for handler in logging.getLogger().handlers:
        inner = handler.formatter or logging.Formatter()
        handler.setFormatter(_RedactingFormatter(inner, redact))
