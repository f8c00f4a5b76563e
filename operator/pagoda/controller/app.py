"""The operator process: what is started in which order, and how it ends.

Every replica keeps a warm cache; only the one that holds the Lease works on the queue. On SIGTERM
the running passes are finished, the Lease is handed back, then kopf is stopped. When the Lease is
lost or kopf ends by itself the process exits non-zero and is restarted.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

import kopf
from prometheus_client import start_http_server

from pagoda.controller.cache import ObjectCache
from pagoda.controller.cordons import Cordons
from pagoda.controller.inquiry import Inquiry
from pagoda.controller.queue import Key, WorkQueue
from pagoda.controller.reconcile import Reconciler, StalledError
from pagoda.controller.relist import Relister
from pagoda.controller.signals import SignalSource
from pagoda.controller.survey import Surveyor
from pagoda.controller.watches import registry, settings
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import FencedError, KubeError, RejectedError
from pagoda.kube.events import EventRecorder
from pagoda.kube.lease import LeaseElector, LeaseLostError, LeaseTimes
from pagoda.observability import metrics
from pagoda.observability.health import Health
from pagoda.observability.logs import reconciling
from pagoda.render.effective import Settings

log = logging.getLogger(__name__)

CONTROLLER_NAME = "serving.pagoda.dev/operator"


@dataclass(frozen=True)
class Options:
    """Settings of the operator process; every period is here so that tests can shorten it."""

    identity: str
    lease_namespace: str
    lease_name: str = "pagoda-operator"
    namespaces: Sequence[str] = ()  # empty: the whole cluster
    rendering: Settings = field(default_factory=Settings)
    workers: int = 16
    health_port: int = 8080
    metrics_port: int = 9090
    relist_seconds: float = 600.0
    signals_seconds: float = 15.0
    inactivity_seconds: float = 75.0
    dead_watch_seconds: float = 180.0
    shutdown_seconds: float = 20.0
    unschedulable_seconds: float = 10.0
    # Back-off: an outage is retried until it ends; what only a person can change, rarely.
    transient_cap_seconds: float = 30.0
    terminal_cap_seconds: float = 300.0
    lease: LeaseTimes = field(default_factory=LeaseTimes)


async def run(options: Options, stop: asyncio.Event | None = None) -> int:
    """Run the operator until SIGTERM, SIGINT or `stop`.

    Returns:
        The exit code.
    """
    stop = stop or asyncio.Event()
    client = await KubeClient.connect()
    elector = LeaseElector(
        client,
        namespace=options.lease_namespace,
        name=options.lease_name,
        identity=options.identity,
        times=options.lease,
    )
    client.fence = elector.fence
    cache, queue = ObjectCache(), WorkQueue()
    cordons = Cordons(visible=not options.namespaces)
    watched_at: dict[str, float] = {}
    health = Health(stale_after=options.dead_watch_seconds, watched_at=watched_at)
    # The metrics have a thread of their own and stay readable when the loop is stuck.
    metrics_server, _ = start_http_server(options.metrics_port)
    end_health = await health.serve(options.health_port)
    _on_signals(stop)
    relister = Relister(
        client,
        cache,
        cordons,
        queue,
        health,
        namespaces=options.namespaces,
        period=options.relist_seconds,
    )
    recorder = EventRecorder(client, controller=CONTROLLER_NAME, instance=options.identity)
    signals = SignalSource(client, cache, queue.add, period=options.signals_seconds)
    inquiry = Inquiry(client, Surveyor(client, options.namespaces), on_news=queue.add)
    reconciler = Reconciler(
        client,
        cache,
        recorder,
        inquiry=inquiry,
        cordons=cordons,
        signals=signals,
        settings=options.rendering,
        unschedulable_seconds=options.unschedulable_seconds,
    )
    handlers = registry(client, cache, cordons, queue, watched_at)
    leader = _Leader(options, elector, relister, queue, reconciler, health, signals)
    try:
        # Before kopf, which in namespaced mode would never notice a CRD that comes later.
        if not await _until(stop, relister.prime()):
            return 0
        health.primed()
        return await _watch_and_lead(options, handlers, leader, stop)
    finally:
        queue.close()
        await inquiry.close()
        await end_health()
        metrics_server.shutdown()
        await client.close()


async def _watch_and_lead(
    options: Options, handlers: kopf.OperatorRegistry, leader: _Leader, stop: asyncio.Event
) -> int:
    """Run kopf and the leader until one of them ends; returns the exit code."""
    ours = asyncio.all_tasks()
    kopf_stop = asyncio.Event()
    kopf_tasks = await kopf.spawn_tasks(
        registry=handlers,
        settings=settings(
            namespaced=bool(options.namespaces), inactivity_seconds=options.inactivity_seconds
        ),
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        # Unused without peering, but without it kopf asks who we are, and a bare uid has no name.
        identity=options.identity,  # type: ignore[arg-type]
        stop_flag=kopf_stop,
    )
    _on_signals(stop)  # again: kopf has put its own handlers there
    watching = asyncio.create_task(kopf.run_tasks(kopf_tasks, ignored=ours), name="kopf")
    leading = asyncio.create_task(leader.run(stop), name="leader")
    await asyncio.wait({watching, leading}, return_when=asyncio.FIRST_COMPLETED)
    code = 0
    if watching.done():
        # kopf cancels all tasks when it ends, ours among them.
        cause = None if watching.cancelled() else watching.exception()
        log.error("ending: the watches have stopped: %s", cause or "kopf ended by itself")
        code = 1
        leading.cancel()
        await asyncio.wait({leading}, timeout=options.shutdown_seconds)
    elif (error := leading.exception()) is not None:
        log.error(
            "ending: %s", error, exc_info=None if isinstance(error, LeaseLostError) else error
        )
        code = 1
    kopf_stop.set()
    await asyncio.wait({watching}, timeout=options.shutdown_seconds)
    return code


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do something that ends early at `stop`; tells whether it was finished."""
    stopped = asyncio.create_task(stop.wait())
    working = asyncio.create_task(work)
    await asyncio.wait({stopped, working}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    return False


class _Leader:
    """What a replica does besides watching: waits for the Lease, then works."""

    def __init__(
        self,
        options: Options,
        elector: LeaseElector,
        relister: Relister,
        queue: WorkQueue,
        reconciler: Reconciler,
        health: Health,
        signals: SignalSource,
    ):
        self._options = options
        self._elector = elector
        self._relister = relister
        self._queue = queue
        self._reconciler = reconciler
        self._health = health
        self._signals = signals
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; raises LeaseLostError when another may be leading."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        relisting = asyncio.create_task(self._relister.run(), name="relist")
        election = asyncio.create_task(self._elector.run(), name="lease")
        background: list[asyncio.Task[None]] = [relisting, election]
        workers: list[asyncio.Task[None]] = []
        try:
            won = asyncio.create_task(self._elector.leading.wait())
            if await self._until(stopped, won, *background):
                return
            # What changed while another led was seen by the watches; this finds the rest.
            priming = asyncio.create_task(self._relister.prime())
            if await self._until(stopped, priming, *background):
                return
            looking = asyncio.create_task(self._signals.look())
            if await self._until(stopped, looking, *background):
                return
            background.append(asyncio.create_task(self._signals.run(), name="signals"))
            metrics.MAX_WORKERS.set(self._options.workers)
            workers = [
                asyncio.create_task(self._work(), name=f"worker-{n}")
                for n in range(self._options.workers)
            ]
            await self._until(stopped, *background, *workers)
        finally:
            self._health.stopping()
            self._stopping = True
            await self._finish(workers)
            for task in (*background, stopped):
                task.cancel()
            # A renewal in flight would be in the way of the release.
            await asyncio.wait(background)
            await self._elector.release()

    async def _until(self, stopped: asyncio.Task[bool], *tasks: asyncio.Task[object]) -> bool:
        """Wait for the first of the tasks, or for the stop; say whether it was the stop.

        A task that failed raises its error here.
        """
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()
        return stopped in done

    async def _finish(self, workers: list[asyncio.Task[None]]) -> None:
        """Let running passes end; idle workers are cancelled at once."""
        deadline = time.monotonic() + self._options.shutdown_seconds
        while self._active and time.monotonic() < deadline:
            await asyncio.wait(workers, timeout=0.1)
        for worker in workers:
            worker.cancel()

    _active = 0

    async def _work(self) -> None:
        while not self._stopping:
            key = await self._queue.get()
            self._active += 1
            metrics.ACTIVE_WORKERS.inc()
            try:
                await self._pass(key)
            finally:
                self._active -= 1
                metrics.ACTIVE_WORKERS.dec()
                self._queue.done(key)

    async def _pass(self, key: Key) -> None:
        """Reconcile one key and decide when it is due again."""
        reconciling.set(
            {
                "controller": metrics.CONTROLLER,
                "namespace": key.namespace,
                "llmdeployment": key.name,
                "reconcile_id": uuid.uuid4().hex[:8],
            }
        )
        result = "success"
        try:
            with metrics.SECONDS.time():
                after = await self._reconciler.reconcile(key)
            self._queue.forget(key)
            if after is not None:
                result = "requeue_after"
                self._queue.add_after(key, after)
        except (StalledError, RejectedError) as error:
            result = "error"
            metrics.TERMINAL_ERRORS.inc()
            delay = self._queue.retry(key, cap=self._options.terminal_cap_seconds)
            log.warning("stalled: %s; next try in %.1f s", error, delay)
        except (KubeError, FencedError) as error:
            result = "error"
            metrics.ERRORS.inc()
            delay = self._queue.retry(
                key,
                cap=self._options.transient_cap_seconds,
                at_least=getattr(error, "retry_after", None) or 0.0,
            )
            log.warning("failed: %s; next try in %.1f s", error, delay)
        except Exception:
            result = "error"
            metrics.ERRORS.inc()
            delay = self._queue.retry(key, cap=self._options.transient_cap_seconds)
            log.exception("failed by a defect; next try in %.1f s", delay)
        finally:
            metrics.RECONCILES.labels(metrics.CONTROLLER, result).inc()


def main(options: Options) -> int:
    """Run in a new event loop."""
    return asyncio.run(run(options))
