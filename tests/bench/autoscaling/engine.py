"""A replica: continuous batching with chunked prefill, as a queue whose step time is known.

A step of `batch` decoding requests and `prefill` prompt tokens takes
base + per_request x batch + per_prompt_token x prefill seconds. Between two events all steps are
alike, so they are taken at once. KV blocks for prompt and answer are held from admission to the end:
there is no preemption.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from pagoda.autoscaling.samples import PodSample


@dataclass(frozen=True)
class Model:
    """Defaults: an 8B model on a GPU of the L4 class."""

    base: float = 0.030
    per_request: float = 0.001
    per_prompt_token: float = 0.0002
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    kv_tokens: int = 40_000
    max_queue: int = 64


@dataclass(slots=True)
class Request:
    arrival: float  # of the first try
    prompt: int
    output: int
    tries: int = 0
    first_token: float = math.nan
    finish: float = math.nan

    @property
    def ttft(self) -> float:
        return self.first_token - self.arrival

    @property
    def tpot(self) -> float:
        return (self.finish - self.first_token) / max(self.output - 1, 1)


@dataclass(slots=True)
class Replica:
    """One engine. `advance` brings it up to a time, at least: steps are not cut."""

    model: Model
    time: float  # of its last step's end
    waiting: deque[Request] = field(default_factory=deque)
    prefilling: deque[list] = field(default_factory=deque)  # [request, prompt tokens left]
    decoding: list[tuple[int, int, Request]] = field(default_factory=list)  # heap by last step
    steps: int = 0
    kv_used: int = 0
    generated: int = 0
    prompted: int = 0
    finished: int = 0
    rejected: int = 0
    tokens_of_finished: int = 0
    _serial: int = 0

    @property
    def running(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.prefilling or self.decoding)

    def offer(self, request: Request, now: float) -> bool:
        """Take a request, or refuse it with 429."""
        self.advance(now)
        if len(self.waiting) >= self.model.max_queue:
            self.rejected += 1
            return False
        self.waiting.append(request)
        self._admit()
        return True

    def advance(self, until: float) -> None:
        while self.time < until:
            self._admit()
            if not (self.prefilling or self.decoding):
                self.time = until
                return
            if self.prefilling:
                self._step_with_prefill()
            else:
                self._steps_of_decoding(until)

    def _admit(self) -> None:
        model = self.model
        while self.waiting and self.running < model.max_num_seqs:
            head = self.waiting[0]
            if self.kv_used + head.prompt + head.output > model.kv_tokens:
                return
            self.waiting.popleft()
            self.kv_used += head.prompt + head.output
            self.prefilling.append([head, head.prompt])

    def _step_with_prefill(self) -> None:
        model, batch = self.model, len(self.decoding)
        budget = model.max_num_batched_tokens - batch
        computed, ready = 0, []
        while self.prefilling and computed < budget:
            entry = self.prefilling[0]
            part = min(entry[1], budget - computed)
            computed += part
            entry[1] -= part
            if entry[1]:
                break
            ready.append(self.prefilling.popleft()[0])
        duration = model.base + model.per_request * batch + model.per_prompt_token * computed
        self.prompted += computed
        self._take(1, duration)
        for request in ready:  # the last part of a prompt gives the first token
            request.first_token = self.time
            self.generated += 1
            self._serial += 1
            heapq.heappush(self.decoding, (self.steps + request.output - 1, self._serial, request))
        self._finish()

    def _steps_of_decoding(self, until: float) -> None:
        duration = self.model.base + self.model.per_request * len(self.decoding)
        to_finish = self.decoding[0][0] - self.steps
        self._take(max(min(to_finish, math.ceil((until - self.time) / duration)), 1), duration)
        self._finish()

    def _take(self, count: int, duration: float) -> None:
        self.steps += count
        self.time += count * duration
        self.generated += count * len(self.decoding)

    def _finish(self) -> None:
        while self.decoding and self.decoding[0][0] <= self.steps:
            request = heapq.heappop(self.decoding)[2]
            request.finish = self.time
            self.kv_used -= request.prompt + request.output
            self.finished += 1
            self.tokens_of_finished += request.output

    def scrape(self, now: float) -> PodSample:
        self.advance(now)
        return PodSample(
            time=now,
            generation_tokens=self.generated,
            prompt_tokens=self.prompted,
            requests_finished=self.finished,
            requests_rejected=self.rejected,
            requests_waiting=len(self.waiting),
            requests_running=self.running,
            kv_cache_usage=self.kv_used / self.model.kv_tokens,
        )
