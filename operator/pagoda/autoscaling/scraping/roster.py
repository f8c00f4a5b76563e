"""All LLMDeployments with their pods, and what the law says of each. No I/O.

Filled from three sides: watches tell of objects, the scraper of pages, the clock asks for sums.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pagoda.autoscaling import law
from pagoda.autoscaling.samples import KEEP_SECONDS, PodHistory, PodSample, PodState
from pagoda.autoscaling.scraping import pods
from pagoda.render.objects import Object

Key = tuple[str, str]  # namespace and name of an LLMDeployment

# A replica that is not ready yet may simply have no server to ask.
EXPECTED = (PodState.SERVING, PodState.LEAVING)


@dataclass(slots=True, eq=False)
class Replica:
    """One engine pod and what it told."""

    key: Key
    name: str
    uid: str
    labels: dict[str, str]
    address: str
    history: PodHistory
    found_ready: bool = False  # it had begun to serve before anybody here looked
    engine: str = ""  # whose names its pages have; "" until the first page
    scraped_at: float = 0.0  # seconds since 1970, of the newest page
    error: str = ""  # why the last scrape failed
    gone_at: float | None = None  # monotonic

    @property
    def exists(self) -> bool:
        """Whether there is something to scrape, now or later."""
        return self.gone_at is None and self.history.state is not PodState.GONE


@dataclass(slots=True, eq=False)
class Deployment:
    """One LLMDeployment."""

    uid: str
    labels: dict[str, str] = field(default_factory=dict)
    target: law.Target | None = None
    replicas: dict[str, Replica] = field(default_factory=dict)  # by the pod's UID
    signals: law.Signals | None = None
    """What the law said last."""
    has_news: bool = True
    """Whether something is known that was not then."""

    @property
    def scraped_at(self) -> float:
        """Time of the newest page, in seconds since 1970."""
        return max((replica.scraped_at for replica in self.replicas.values()), default=0.0)

    def blind(self, now: float) -> list[str]:
        """Name the pods that serve and are not heard of."""
        return sorted(r.name for r in self.replicas.values() if r.history.is_blind(now))

    def count(self, state: PodState) -> int:
        """Count the pods of a state."""
        return sum(r.history.state is state for r in self.replicas.values())


class Roster:
    """What is known of all of them."""

    def __init__(
        self,
        constants: law.Constants = law.DEFAULT,
        *,
        on_new: Callable[[Replica], None] = lambda _replica: None,
    ):
        """Begin empty.

        Args:
            constants: of the law.
            on_new: told of every pod that is to be scraped from now on.
        """
        self._constants = constants
        self._on_new = on_new
        self._spec_replicas: dict[Key, int] = {}
        self._pods: dict[Key, dict[str, Replica]] = {}
        self.deployments: dict[Key, Deployment] = {}

    # --- what watches tell --------------------------------------------------------------------
    def on_deployment(self, _before: Object | None, after: Object | None) -> None:
        """Take in a change of an LLMDeployment."""
        obj = after or _before
        assert obj is not None
        key = obj["metadata"]["namespace"], obj["metadata"]["name"]
        if after is None:
            self.deployments.pop(key, None)
            return
        known = self.deployments.get(key)
        if known is None or known.uid != after["metadata"]["uid"]:
            known = self.deployments[key] = Deployment(after["metadata"]["uid"])
            known.replicas = self._pods.setdefault(key, {})
        known.labels = after["metadata"].get("labels", {})
        known.target = target(after)
        known.has_news = True

    def on_workload(self, before: Object | None, after: Object | None) -> None:
        """Take in a change of the Deployment behind an LLMDeployment, which has its name."""
        obj = after or before
        assert obj is not None
        key = obj["metadata"]["namespace"], obj["metadata"]["name"]
        if after is None:
            self._spec_replicas.pop(key, None)
        else:
            self._spec_replicas[key] = after["spec"].get("replicas", 1)
        self._note(key)

    def on_pod(self, before: Object | None, after: Object | None) -> None:
        """Take in a change of an engine's pod."""
        now = time.monotonic()
        if before is not None and (
            after is None or before["metadata"]["uid"] != after["metadata"]["uid"]
        ):
            self._bury(before, now)
        if after is None or (key := pods.deployment_of(after)) is None:
            return
        metadata, facts = after["metadata"], pods.facts(after)
        siblings = self._pods.setdefault(key, {})
        replica = siblings.get(metadata["uid"])
        is_new = replica is None
        if replica is None:
            created = now - (time.time() - facts.created)
            history = PodHistory(
                revision=facts.revision,
                created=created,
                stale_seconds=self._constants.stale_seconds,
            )
            labels = metadata.get("labels", {})
            replica = Replica(key, metadata["name"], metadata["uid"], labels, "", history)
            siblings[metadata["uid"]] = replica
        replica.labels = metadata.get("labels", {})
        replica.address = facts.address
        if is_new and facts.ready_since is not None:
            replica.found_ready = True
            replica.history.become(PodState.SERVING, now - (time.time() - facts.ready_since))
        replica.history.become(facts.state, now)
        self._note(key)
        if is_new:
            self._on_new(replica)

    def _bury(self, pod: Object, now: float) -> None:
        if (key := pods.deployment_of(pod)) is None:
            return
        if (replica := self._pods.get(key, {}).get(pod["metadata"]["uid"])) is not None:
            replica.history.become(PodState.GONE, now)
            replica.gone_at = now
            self._note(key)

    def _note(self, key: Key) -> None:
        if (deployment := self.deployments.get(key)) is not None:
            deployment.has_news = True

    # --- what the scraper tells ---------------------------------------------------------------
    def heard(self, replica: Replica, values: dict[str, float], now: float) -> None:
        """Take in the values of a page."""
        replica.history.add(PodSample(time=now, **values))
        replica.scraped_at = time.time()
        replica.error = ""
        self._note(replica.key)

    # --- what is asked ------------------------------------------------------------------------
    @property
    def is_known_from_birth(self) -> bool:
        """Tell whether nothing has happened to any pod before it was watched."""
        everybody = (replica for found in self._pods.values() for replica in found.values())
        return not any(replica.found_ready for replica in everybody)

    def measure(self, key: Key, now: float) -> None:
        """Apply the law to an LLMDeployment, and forget pods of it that are long gone."""
        self._forget(key, now)
        if (deployment := self.deployments.get(key)) is None:
            return
        deployment.has_news = False
        deployment.signals = law.measure(
            [replica.history for replica in deployment.replicas.values()],
            now=now,
            spec_replicas=self._spec_replicas.get(key, 0),
            target=deployment.target,
            previous=deployment.signals,
            law=self._constants,
        )

    def newest(self, key: Key, now: float) -> law.Signals | None:
        """Give what the law says of all that is known by now; None if there is no such object.

        An HPA looks every 15 s: what it is told must not be seconds old on top of that.
        """
        if (deployment := self.deployments.get(key)) is None:
            return None
        if deployment.has_news:
            self.measure(key, now)
        return deployment.signals

    @property
    def keys(self) -> list[Key]:
        """The LLMDeployments that there are, and those of which pods are left."""
        return list(self._pods)

    def _forget(self, key: Key, now: float) -> None:
        siblings = self._pods.get(key, {})
        for uid, replica in list(siblings.items()):
            if replica.gone_at is not None and now - replica.gone_at > KEEP_SECONDS:
                del siblings[uid]
        if not siblings and key not in self.deployments:
            self._pods.pop(key, None)

    def served(self, replica: Replica, now: float) -> law.Signal:
        """Give what one pod serves, in output-equivalent tokens per second."""
        return law.measure(
            [replica.history], now=now, spec_replicas=1, target=None, law=self._constants
        ).served_tokens_per_second

    def fresh(self, namespace: str, deployment: str | None, now: float) -> Iterator[Replica]:
        """Give the pods of an LLMDeployment, or of all of a namespace, that serve and are heard of."""
        if deployment is not None:
            chosen = [self._pods.get((namespace, deployment), {})]
        else:
            chosen = [found for (place, _), found in self._pods.items() if place == namespace]
        for siblings in chosen:
            for replica in siblings.values():
                serves = replica.history.state is PodState.SERVING
                if serves and replica.history.samples and not replica.history.is_blind(now):
                    yield replica


def keep_deployment(obj: Object) -> Object:
    """Take from an LLMDeployment what `on_deployment` needs."""
    metadata = obj["metadata"]
    return {
        "metadata": {
            k: metadata[k] for k in ("name", "namespace", "uid", "labels") if k in metadata
        },
        "autoscaling": obj.get("spec", {}).get("autoscaling"),
        "capacity": (obj.get("status", {}).get("autoscaling") or {}).get("capacity"),
    }


def keep_workload(obj: Object) -> Object:
    """Take from a Deployment what `on_workload` needs."""
    metadata = obj["metadata"]
    return {
        "metadata": {k: metadata[k] for k in ("name", "namespace")},
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
    }


def target(kept: Object) -> law.Target | None:
    """Find what a replica is meant to do: as the user has set it, else of the capacity in status."""
    given = (kept["autoscaling"] or {}).get("targetTokensPerSecond")
    if given:
        return law.Target.given(float(given))
    learned = (kept["capacity"] or {}).get("tokensPerSecond")
    return law.Target.of_capacity(float(learned)) if learned else None
