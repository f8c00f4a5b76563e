"""The metrics server's process: what runs in it, and in which order it begins.

Every replica does everything: it scrapes all engines itself, so that no state is shared and the
answers of two replicas agree within a scrape. What they share are certificates, in a Secret.
"""

import asyncio
import base64
import gc
import logging
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Gauge, start_http_server

from pagoda.autoscaling import law
from pagoda.autoscaling.scraping import pods
from pagoda.autoscaling.scraping.roster import Roster, keep_deployment, keep_workload
from pagoda.autoscaling.scraping.scraper import Pace, Scraper
from pagoda.autoscaling.server import bulk, registration
from pagoda.autoscaling.server.authentication import Authenticator
from pagoda.autoscaling.server.authorization import Authorizer
from pagoda.autoscaling.server.certificates import Certificates, Rules
from pagoda.autoscaling.server.identity import FrontProxy
from pagoda.autoscaling.server.listener import Listener
from pagoda.autoscaling.server.registration import Registration, Service
from pagoda.autoscaling.server.routes import Routes
from pagoda.autoscaling.server.serving_secret import ServingSecret
from pagoda.autoscaling.server.values import NOT_WHOLE, Values
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import KubeError
from pagoda.kube.mirror import Mirror
from pagoda.kube.resources import (
    API_SERVICE,
    CHILD_SELECTOR,
    CONFIG_MAP,
    DEPLOYMENT,
    LLMDEPLOYMENT,
    POD,
)
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

AUTHENTICATION = ("kube-system", "extension-apiserver-authentication")
RETRY_SECONDS = 5.0
LOOK_SECONDS = 60.0
# A burst of callers must not become a burst of TLS handshakes, which would make all of them wait.
REVIEWS_AT_A_TIME = 16
YOUNG_OBJECTS = 350  # more of them than before cause a collection of the youngest generation
FULL_COLLECTION_AFTER = 20_000  # collections of the middle one: more than an hour
SLICE_SECONDS = (
    0.02  # the law takes its turns so often, and no more LLMDeployments in one than this:
)
AT_ONCE = 5

DEPLOYMENTS = Gauge("pagoda_llmdeployments", "LLMDeployments known.")
REPLICAS = Gauge("pagoda_engine_pods", "Engine pods by what is known of them.", ["state"])
REGISTERED = Gauge("pagoda_metrics_api_registered", "1 while the API group is ours.")
MEASURE_SECONDS = Gauge(
    "pagoda_measure_seconds", "CPU time of the last pass of the law over all LLMDeployments."
)


@dataclass(frozen=True)
class Options:
    """Settings of the process; every period is here so that tests can shorten it."""

    service: Service
    secret: str  # name, in the Service's namespace
    owner: str  # ClusterRole that owns the APIService
    rules: Rules
    host: str | None = None
    port: int = 8443
    metrics_port: int = 9090
    drain_seconds: float = 5.0  # for every API server to hear that this replica is not ready
    pace: Pace = field(default_factory=Pace)
    constants: law.Constants = law.DEFAULT


class MetricsServer:
    """One replica."""

    def __init__(self, client: KubeClient, reviewer: KubeClient, options: Options):
        """Join the parts; the reviewer is a client for questions about callers alone."""
        self._reviewer = reviewer
        self._options = options
        self._stopping = False
        self._watched_since: float | None = None
        self._front_proxy: FrontProxy | None = None
        self._listener = Listener()
        self._presented = asyncio.Event()
        self._registration = Registration(client, options.service, options.owner)
        self._claims_changed = asyncio.Event()
        self._secret = ServingSecret(
            client,
            options.service.namespace,
            options.secret,
            options.rules,
            published=self._published,
            on_change=self._present,
        )
        self._roster = Roster(options.constants, on_new=lambda replica: self._scraper.add(replica))
        self._scraper = Scraper(self._roster, options.pace)
        self._authentication = Mirror(
            client,
            CONFIG_MAP,
            namespace=AUTHENTICATION[0],
            field_selector=f"metadata.name={AUTHENTICATION[1]}",
            on_change=self._trust,
        )
        self._services = Mirror(
            client, API_SERVICE, keep=registration.keep, on_change=self._on_service
        )
        roster = self._roster
        self._watched = (
            Mirror(client, LLMDEPLOYMENT, keep=keep_deployment, on_change=roster.on_deployment),
            Mirror(
                client,
                DEPLOYMENT,
                label_selector=CHILD_SELECTOR,
                keep=keep_workload,
                on_change=roster.on_workload,
            ),
            Mirror(
                client,
                POD,
                label_selector=CHILD_SELECTOR,
                keep=pods.keep,
                on_change=roster.on_pod,
            ),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        routes = Routes(
            Authenticator(self._reviewer, lambda: self._front_proxy),
            Authorizer(self._reviewer),
            Values(self._roster, self._options.constants, self._is_whole),
            peer=self._listener.peer,
            signals=self._signals,
            unready=self.unready,
        )
        work: list[Coroutine[Any, Any, None]] = [
            self._authentication.run(),
            self._services.run(),
            self._secret.run(),
            self._scraper.run(),
            self._measure(),
            self._register(),
            *(mirror.run() for mirror in self._watched),
        ]
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        stopped = asyncio.create_task(stop.wait())
        try:
            presented = asyncio.create_task(self._presented.wait())
            await _first(stopped, presented, *tasks)
            if not stop.is_set():
                await self._listener.serve(routes.app(), self._options.host, self._options.port)
                log.info("serving", extra={"port": self._options.port})
                await _first(stopped, *tasks)
                self._stopping = True
                await asyncio.sleep(self._options.drain_seconds)
        finally:
            self._stopping = True
            await self._listener.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def unready(self) -> str:
        """Say why this replica is not to be asked; "" if it may be."""
        if self._stopping:
            return "stopping"
        if not self._authentication.synced.is_set():
            return "whom to trust is not known yet"
        if not self._is_whole():
            return NOT_WHOLE
        return ""

    # --- what watches tell --------------------------------------------------------------------
    def _trust(self, _before: Object | None, after: Object | None) -> None:
        try:
            proxy = FrontProxy.from_config_map(after) if after is not None else None
            self._listener.trust(proxy.authority if proxy else "")
        except ValueError as error:
            # What was trusted may be what had to go.
            proxy = None
            self._listener.trust("")
            log.error("the ConfigMap %s cannot be used: %s", AUTHENTICATION[1], error)
        self._front_proxy = proxy
        if proxy is None:
            log.warning("nobody is trusted to name users: only tokens count")

    def _on_service(self, _before: Object | None, _after: Object | None) -> None:
        self._claims_changed.set()
        self._secret.look_again()

    def _present(self, held: Certificates) -> None:
        self._listener.present(held.current.chain, held.current.key)
        self._presented.set()
        self._claims_changed.set()

    def _published(self, held: Certificates) -> bytes:
        ours = self._claims().ours
        # With no APIService there is nobody who would have to learn of a new authority first.
        return base64.b64decode(ours["spec"].get("caBundle") or "") if ours else held.bundle

    # --- what runs beside ---------------------------------------------------------------------
    async def _measure(self) -> None:
        for mirror in self._watched:
            await mirror.synced.wait()
        self._watched_since = time.monotonic()
        # Each as often as there is something new, one after the other: all at once would keep
        # queries waiting for half a second with a thousand of them.
        interval = self._options.pace.interval
        while True:
            began = time.monotonic()
            keys = self._roster.keys
            spent = 0.0
            for number, key in enumerate(keys, start=1):
                started = time.monotonic()
                self._roster.measure(key, started)
                spent += time.monotonic() - started
                due = began + interval * number / len(keys)
                if (early := due - time.monotonic()) > SLICE_SECONDS or number % AT_ONCE == 0:
                    await asyncio.sleep(max(early, 0))
            MEASURE_SECONDS.set(spent)
            self._count()
            await asyncio.sleep(max(began + interval - time.monotonic(), 0))

    async def _register(self) -> None:
        await self._presented.wait()
        await self._services.synced.wait()
        while True:
            self._claims_changed.clear()
            delay = LOOK_SECONDS if not self.unready() else self._options.pace.interval / 4
            held = self._secret.held
            assert held is not None
            try:
                may_begin = not self.unready()
                await self._registration.settle(self._claims(), held.bundle, may_begin=may_begin)
            except KubeError as error:
                log.warning("the APIService cannot be written: %s", error)
                delay = RETRY_SECONDS
            REGISTERED.set(not self._registration.reason)
            try:
                async with asyncio.timeout(delay):
                    await self._claims_changed.wait()
            except TimeoutError:
                pass

    def _claims(self) -> registration.Claims:
        return registration.claims(self._services.objects.values(), self._options.service)

    def _is_whole(self) -> bool:
        """Tell whether nobody could know more: a window was watched, or every pod from its birth.

        A replica that joins others must not answer from less than they do. One that has missed
        nothing answers at once, and the law says how young the pods are.
        """
        if self._watched_since is None:
            return False
        window = self._options.constants.window + self._options.pace.interval
        return time.monotonic() - self._watched_since >= window or self._roster.is_known_from_birth

    def _signals(self) -> Object:
        return bulk.signals(
            self._roster,
            self._registration,
            self._options.constants,
            whole=self._is_whole(),
            now=time.monotonic(),
        )

    def _count(self) -> None:
        now = time.monotonic()
        deployments = self._roster.deployments.values()
        DEPLOYMENTS.set(len(deployments))
        counts = {"blind": 0, "starting": 0, "serving": 0, "leaving": 0}
        for found in deployments:
            for replica in found.replicas.values():
                state = replica.history.state.lower()
                if replica.history.is_blind(now):
                    state = "blind"
                if state in counts:
                    counts[state] += 1
        for state, count in counts.items():
            REPLICAS.labels(state).set(count)


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Wait for the first of the tasks; one that failed raises its error here."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def run(options: Options, stop: asyncio.Event | None = None) -> int:
    """Run until SIGTERM, SIGINT or `stop`; returns the exit code."""
    stop = stop or asyncio.Event()
    # What is made here is in no cycle, but the collector has to look at it to know: at all samples
    # in a full collection, and in one of the middle generation at what the last ten of the youngest
    # left, with 4,000 pods 60,000 objects. Each look holds up every query: small and often instead.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 1, FULL_COLLECTION_AFTER)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await KubeClient.connect()
    reviewer = await KubeClient.connect(connections=REVIEWS_AT_A_TIME)
    # The metrics have a thread of their own and stay readable when the loop is stuck.
    own_metrics, _ = start_http_server(options.metrics_port)
    try:
        await MetricsServer(client, reviewer, options).run(stop)
    finally:
        own_metrics.shutdown()
        await client.close()
        await reviewer.close()
    return 0


def main(options: Options) -> int:
    """Run in a new event loop."""
    return asyncio.run(run(options))
