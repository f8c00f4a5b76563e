"""The operator process: what is started in which order, and how it ends.

Every replica keeps a warm cache; only the one that holds the Lease works on the queue. On SIGTERM
the running passes are finished, the Lease is handed back, then kopf is stopped. When the Lease is
lost or kopf ends by itself the process exits non-zero and is restarted.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import kopf
from prometheus_client import start_http_server

from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key, WorkQueue
from pagoda.controller.reconcile import Reconciler, StalledError
from pagoda.controller.relist import Relister
from pagoda.controller.watches import registry, settings
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import FencedError, KubeError, RejectedError
from pagoda.kube.events import EventRecorder
from pagoda.kube.lease import LeaseElector, LeaseLostError, LeaseTimes
from pagoda.kube.resources import Resource
from pagoda.observability import metrics
from pagoda.observability.health import Health
from pagoda.observability.logs import reconciling

log = logging.getLogger(__name__)

CONTROLLER_NAME = "serving.pagoda.dev/operator"


@dataclass(frozen=True)
class Options:
    """Settings of the operator process; every period is here so that tests can shorten it."""

    identity: str
    lease_namespace: str
    lease_name: str = "pagoda-operator"
    namespaces: Sequence[str] = ()  # empty: the whole cluster
    default_images: Mapping[str, str] = field(default_factory=dict)
    workers: int = 4
    health_port: int = 8080
    metrics_port: int = 9090
    relist_seconds: float = 600.0
    inactivity_seconds: float = 75.0
    dead_watch_seconds: float = 180.0
    shutdown_seconds: float = 20.0
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
    ours = asyncio.all_tasks()
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
    health = Health(stale_after=options.dead_watch_seconds)
    watched_at: dict[Resource, float] = {}
    kopf_stop = asyncio.Event()
    kopf_tasks = await kopf.spawn_tasks(
        registry=registry(client, cache, queue, watched_at),
        settings=settings(
            namespaced=bool(options.namespaces), inactivity_seconds=options.inactivity_seconds
        ),
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        # Unused without peering, but without it kopf asks who we are, and a bare uid has no name.
        identity=options.identity,  # type: ignore[arg-type]
        stop_flag=kopf_stop,
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # after kopf, whose handlers these replace
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The metrics have a thread of their own and stay readable when the loop is stuck.
    metrics_server, _ = start_http_server(options.metrics_port)
    end_health = await health.serve(options.health_port)

    relister = Relister(
        client,
        cache,
        queue,
        health,
        namespaces=options.namespaces,
        period=options.relist_seconds,
        watched_at=watched_at,
    )
    recorder = EventRecorder(client, controller=CONTROLLER_NAME, instance=options.identity)
    reconciler = Reconciler(client, cache, recorder, default_images=options.default_images)
    leader = _Leader(options, elector, relister, queue, reconciler, health)
    watching = asyncio.create_task(kopf.run_tasks(kopf_tasks, ignored=ours), name="kopf")
    leading = asyncio.create_task(leader.run(stop), name="leader")
    await asyncio.wait({watching, leading}, return_when=asyncio.FIRST_COMPLETED)
    code = 0
    if leading.done() and leading.exception() is not None:
        log.error("ending: %s", leading.exception())
        code = 1
    elif not leading.done():
        log.error("ending: the watches have stopped")
        code = 1
        leading.cancel()
        await asyncio.wait({leading})
    kopf_stop.set()
    await asyncio.wait({watching}, timeout=options.shutdown_seconds)
    queue.close()
    await end_health()
    metrics_server.shutdown()
    await client.close()
    return code


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
    ):
        self._options = options
        self._elector = elector
        self._relister = relister
        self._queue = queue
        self._reconciler = reconciler
        self._health = health
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; raises LeaseLostError when another may be leading."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        background: list[asyncio.Task[None]] = []
        workers: list[asyncio.Task[None]] = []
        try:
            if await self._until(stopped, asyncio.create_task(self._relister.prime())):
                return
            self._health.primed()
            background.append(asyncio.create_task(self._relister.run(), name="relist"))
            election = asyncio.create_task(self._elector.run(), name="lease")
            background.append(election)
            won = asyncio.create_task(self._elector.leading.wait())
            if await self._until(stopped, won, election):
                return
            # What changed while another led was seen by the watches; this finds the rest.
            if await self._until(stopped, asyncio.create_task(self._relister.prime()), election):
                return
            metrics.MAX_WORKERS.set(self._options.workers)
            workers = [
                asyncio.create_task(self._work(), name=f"worker-{n}")
                for n in range(self._options.workers)
            ]
            await self._until(stopped, election, *workers)
        finally:
            self._health.stopping()
            self._stopping = True
            await self._finish(workers)
            for task in (*background, stopped):
                task.cancel()
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
    with contextlib.suppress(KeyboardInterrupt):
        try:
            return asyncio.run(run(options))
        except LeaseLostError as error:
            print(f"pagoda: {error}", file=sys.stderr)
            return 1
    return 130
