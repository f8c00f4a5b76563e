"""Asks what pods do not tell: who holds the GPU, a crash's log, Events, a download's progress.

Nothing is asked about pods that serve. An answer is waited for only for a moment; one that comes
later brings the LLMDeployment into the queue again. No answer is one too: the status says less then.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from pagoda.controller.diagnosis import Evidence, PodEvent, same_but_for_numbers
from pagoda.controller.questions import Kind, Question, questions
from pagoda.controller.queue import Key
from pagoda.controller.survey import Surveyor
from pagoda.engines.base import PORT
from pagoda.engines.pagoda import START_PATH, start_progress
from pagoda.fetch.report import progress_text
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError, NotFoundError
from pagoda.kube.resources import CLAIM, EVENT
from pagoda.render.fetch import PROGRESS_PORT
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5  # so that the first status of a cause has it all, in the common case
ANSWER_SECONDS = 5.0
POD_ANSWER_SECONDS = 2.0
PARALLEL = 8
LOG_LINES = 200  # vLLM's server buries the engine's traceback under its own
LOG_BYTES = 128 * 1024
PROGRESS_BYTES = 64 * 1024
# A download's progress is told when it has moved by so many per cent, and no oftener than that.
TOLD_PERCENT = 5
TOLD_SECONDS = 10.0


@dataclass
class _Record:
    """A question that is or was asked, and its last answer."""

    question: Question
    seen_at: float
    asked_at: float | None = None
    answered_at: float = 0.0
    answer: Any = None
    version: object = None  # of the question that the answer is to
    task: asyncio.Task[None] | None = None

    def due_at(self) -> float | None:
        """Give the time at which to ask (again)."""
        if self.asked_at is None:
            return self.seen_at + self.question.delay
        if self.version != self.question.version and self.task is None:
            return self.asked_at
        repeat = self.question.repeat
        return None if repeat is None else self.asked_at + repeat


class Inquiry:
    """Asks and remembers, for all LLMDeployments."""

    def __init__(
        self, client: KubeClient, surveyor: Surveyor, on_news: Callable[[Key], None]
    ) -> None:
        """Prepare.

        Args:
            client: access to the API server.
            surveyor: tells who holds the GPUs.
            on_news: called with the LLMDeployment about which an answer came late.
        """
        self._client = client
        self._surveyor = surveyor
        self._on_news = on_news
        self._records: dict[Key, dict[tuple[Kind, str], _Record]] = {}
        self._slots = asyncio.Semaphore(PARALLEL)
        self._http: aiohttp.ClientSession | None = None

    async def ask(self, key: Key, pods: Iterable[Object]) -> tuple[Evidence, float | None]:
        """Find out what there is to find out about pods.

        Args:
            key: the LLMDeployment.
            pods: those of its revision in force.

        Returns:
            What is known, and the seconds after which to ask again.
        """
        records = self._update(key, questions(pods))
        now = asyncio.get_running_loop().time()
        first = []
        for record in records.values():
            due = record.due_at()
            if record.task is None and due is not None and due <= now:
                is_new = record.asked_at is None or record.version != record.question.version
                record.asked_at = now
                record.task = asyncio.create_task(self._answer(key, record), name="inquiry")
                if is_new:
                    first.append(record.task)
        if first:
            await asyncio.wait(first, timeout=PATIENCE_SECONDS)
        dues = [record.due_at() for record in records.values()]
        wait = min((due - now for due in dues if due is not None), default=None)
        return _evidence(records.values()), None if wait is None else max(wait, 0.1)

    def forget(self, key: Key) -> None:
        """Drop what is known about a deleted LLMDeployment."""
        self._update(key, [])

    async def close(self) -> None:
        """Stop asking."""
        for key in list(self._records):
            self.forget(key)
        if self._http is not None:
            await self._http.close()

    def _update(self, key: Key, wanted: list[Question]) -> dict[tuple[Kind, str], _Record]:
        """Keep the records of what is still to be known."""
        old = self._records.pop(key, {})
        now = asyncio.get_running_loop().time()
        records = {}
        for question in wanted:
            entry = (question.kind, question.about)
            record = old.pop(entry, None) or _Record(question, now)
            record.question = question
            records[entry] = record
        for record in old.values():
            if record.task is not None:
                record.task.cancel()
        if records:
            self._records[key] = records
        return records

    async def _answer(self, key: Key, record: _Record) -> None:
        question = record.question
        try:
            async with self._slots, asyncio.timeout(ANSWER_SECONDS):
                answer = await self._asking(question)
        except (KubeError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.debug("no answer about %s: %s", question.kind, error)
            answer = record.answer
        record.task = None
        record.version = question.version
        now = asyncio.get_running_loop().time()
        if question.kind in ("download", "load") and not _is_news(
            record.answer, answer, now - record.answered_at
        ):
            answer = record.answer
        if answer != record.answer:
            record.answer, record.answered_at = answer, now
            self._on_news(key)

    def _asking(self, question: Question) -> Coroutine[Any, Any, Any]:
        match question.kind:
            case "log":
                return self._log(question)
            case "events":
                return self._events(question)
            case "download":
                return self._download(question)
            case "load":
                return self._load(question)
            case "claim":
                return self._claim(question)
            case "gpus":
                return self._surveyor.survey()

    async def _log(self, question: Question) -> str:
        names = question.details
        return await self._client.log(
            names["namespace"],
            names["pod"],
            names["container"],
            previous=bool(names["previous"]),
            lines=LOG_LINES,
            limit=LOG_BYTES,
        )

    async def _events(self, question: Question) -> tuple[PodEvent, ...]:
        events = await self._client.list(
            EVENT, question.details["namespace"], field_selector=f"regarding.uid={question.about}"
        )
        return tuple(sorted(map(_event, events), key=lambda event: event.time))

    async def _download(self, question: Question) -> str:
        return progress_text(
            await self._ask_pod(question.details["address"], PROGRESS_PORT, "/progress")
        )

    async def _load(self, question: Question) -> str:
        return start_progress(await self._ask_pod(question.details["address"], PORT, START_PATH))

    async def _ask_pod(self, host: str, port: int, path: str) -> Mapping[str, Any]:
        """Ask a pod for a JSON object."""
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=POD_ANSWER_SECONDS)
            self._http = aiohttp.ClientSession(timeout=timeout)
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{port}{path}"
        async with self._http.get(url, allow_redirects=False) as answer:
            body = b""
            # It is a user's pod that answers, with whatever it likes.
            async for chunk in answer.content.iter_chunked(PROGRESS_BYTES):
                body += chunk
                if len(body) > PROGRESS_BYTES:
                    raise ValueError("too long to be a progress report")
        data = json.loads(body)
        if not isinstance(data, dict):
            raise ValueError("not a progress report")
        return data

    async def _claim(self, question: Question) -> str:
        with contextlib.suppress(NotFoundError):
            claim = await self._client.get(CLAIM, question.details["namespace"], question.about)
            phase = claim.get("status", {}).get("phase", "Pending")
            if claim["metadata"].get("deletionTimestamp"):
                return "is being deleted"
            storage = claim["spec"].get("storageClassName")
            kind = f"StorageClass {storage}" if storage else "no StorageClass"
            return f"is {phase}, with {kind}"
        return "does not exist"


def _evidence(records: Iterable[_Record]) -> Evidence:
    answers: dict[Kind, dict[str, Any]] = {}
    for record in records:
        if record.answer is not None:
            answers.setdefault(record.question.kind, {})[record.question.about] = record.answer
    return Evidence(
        logs=answers.get("log", {}),
        events=answers.get("events", {}),
        downloads=answers.get("download", {}),
        loads=answers.get("load", {}),
        claims=answers.get("claim", {}),
        gpus=answers.get("gpus", {}).get(""),
    )


def _event(event: Object) -> PodEvent:
    series = event.get("series") or {}
    time = (
        series.get("lastObservedTime")
        or event.get("deprecatedLastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
    # Whole seconds, as in a pod's status.
    return PodEvent(event.get("reason", ""), event.get("note", ""), f"{time[:19]}Z")


def _is_news(told: str | None, now: str, seconds: float) -> bool:
    """Tell whether a progress is worth a write of the status."""
    if told is None or seconds < TOLD_SECONDS:
        return told is None
    before, after = _percent(told), _percent(now)
    if before is not None and after is not None and abs(after - before) >= TOLD_PERCENT:
        return True
    return not same_but_for_numbers(told, now)


def _percent(text: str) -> int | None:
    found = re.match(r"(\d+) %", text)
    return int(found[1]) if found else None
