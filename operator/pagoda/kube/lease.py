"""Leader election by a Lease, with fencing.

The rules are client-go's (tools/leaderelection): expiry is judged by how long the record has not
changed on our own monotonic clock, never by comparing wall clocks. Added is the fence: before every
write the holder checks that its last renewal is younger than the renew deadline, so a leader that
was stopped and wakes up after its Lease went to another does not write.
"""

import asyncio
import datetime
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge

from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ConflictError, FencedError, KubeError, NotFoundError
from pagoda.kube.resources import LEASE
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

MASTER = Gauge("leader_election_master_status", "1 while this process leads.", ["name"])


class LeaseLostError(Exception):
    """Leadership could not be renewed in time; the process must end."""


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds. A follower takes over at the earliest `duration` after the last change it saw."""

    duration: float = 10.0
    renew_deadline: float = 7.0
    retry: float = 1.5

    def __post_init__(self) -> None:
        """Refuse times with which two could lead at once."""
        if not 0 < self.retry < self.renew_deadline < self.duration:
            raise ValueError(
                "the Lease's times must grow: retry < renew deadline < duration, got "
                f"{self.retry:g}, {self.renew_deadline:g}, {self.duration:g} s"
            )


class LeaseElector:
    """Acquires, renews and releases one Lease."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or LeaseTimes()
        self._clock = clock
        self._renewed_at = -float("inf")  # when our last successful renewal was *sent*
        self._record: Object | None = None
        self._record_seen_at = -float("inf")
        self.leading = asyncio.Event()

    def fence(self) -> None:
        """Allow a write, or raise FencedError."""
        if not self.leading.is_set() or not self._is_fresh():
            raise FencedError("the Lease is not ours, or was not renewed in time")

    async def run(self) -> None:
        """Campaign, then lead until the Lease cannot be renewed.

        Raises:
            LeaseLostError: we led and no longer do.
        """
        while not await self._try_acquire():  # noqa: ASYNC110 (the Lease is polled)
            await asyncio.sleep(self._times.retry * random.uniform(1, 1.2))
        self.leading.set()
        MASTER.labels(self._name).set(1)
        log.info("leading", extra={"lease": self._name, "identity": self._identity})
        while True:
            await asyncio.sleep(self._times.retry)
            if await self._try_acquire():
                continue
            if not self._is_fresh() or self._holder() != self._identity:
                self.leading.clear()
                MASTER.labels(self._name).set(0)
                raise LeaseLostError(f"the Lease {self._name} went to {self._holder() or 'nobody'}")

    async def release(self) -> None:
        """Hand the Lease back, so that a standby takes over at once."""
        if not self.leading.is_set() or self._record is None:
            return
        self.leading.clear()
        MASTER.labels(self._name).set(0)
        lease = self._record | {"spec": self._record["spec"] | {"holderIdentity": ""}}
        try:
            await self._client.replace_unfenced(LEASE, lease)
        except KubeError as error:
            log.warning("the Lease could not be released: %s", error)

    def _is_fresh(self) -> bool:
        return self._clock() < self._renewed_at + self._times.renew_deadline

    def _holder(self) -> str:
        return str((self._record or {}).get("spec", {}).get("holderIdentity") or "")

    async def _try_acquire(self) -> bool:
        """Try once to take or renew the Lease; say whether it is ours now."""
        sent_at = self._clock()
        try:
            # A call that hangs must not outlive the Lease (controller-runtime: RenewDeadline / 2).
            async with asyncio.timeout(self._times.renew_deadline / 2):
                held = await self._take_or_renew()
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease could not be renewed: %s", error or "timeout")
            return False
        if held:
            self._renewed_at = sent_at
        return held

    async def _take_or_renew(self) -> bool:
        try:
            current = await self._client.get(LEASE, self._namespace, self._name)
        except NotFoundError:
            try:
                self._see(await self._client.create_unfenced(LEASE, self._new_lease()))
            except ConflictError:
                return False
            return True
        self._see(current)
        spec = current["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder and holder != self._identity and not self._expired(spec):
            return False
        changed = spec | {"renewTime": _now(), "leaseDurationSeconds": round(self._times.duration)}
        if holder != self._identity:
            changed |= {
                "holderIdentity": self._identity,
                "acquireTime": _now(),
                "leaseTransitions": spec.get("leaseTransitions", 0) + 1,
            }
        try:
            self._see(await self._client.replace_unfenced(LEASE, current | {"spec": changed}))
        except ConflictError:
            return False
        return True

    def _expired(self, spec: Object) -> bool:
        duration = float(spec.get("leaseDurationSeconds") or self._times.duration)
        return self._clock() >= self._record_seen_at + duration

    def _see(self, lease: Object) -> None:
        if self._record is None or self._record["spec"] != lease["spec"]:
            self._record_seen_at = self._clock()
        self._record = lease

    def _new_lease(self) -> Object:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": round(self._times.duration),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": 0,
            },
        }


def _now() -> str:
    """Write the wall clock as a MicroTime, which needs its six digits."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
