"""Looks up what a request asks for."""

import time
from collections.abc import Callable, Iterator

from pagoda.autoscaling.law import Constants, Signal, Signals
from pagoda.autoscaling.scraping.roster import Replica, Roster
from pagoda.autoscaling.server.answers import ApiError, Reading
from pagoda.autoscaling.server.discovery import DEPLOYMENTS, METRICS, PODS
from pagoda.autoscaling.server.selectors import Selector, parse
from pagoda.render.objects import SELECTOR_LABEL

EVERY = "*"
NOT_WHOLE = "the first window is not full yet"
RATES = ("demand_tokens_per_second", "served_tokens_per_second")


class Values:
    """The values of metrics, from the roster."""

    def __init__(self, roster: Roster, constants: Constants, is_whole: Callable[[], bool]):
        """Take the roster, what the law assumes, and what tells whether the first window is full."""
        self._roster = roster
        self._is_whole = is_whole
        self._window = round(constants.window)

    def find(
        self, resource: str, namespace: str, name: str, metric: str, *, labels: str, series: str
    ) -> list[Reading]:
        """Find the values of a metric.

        Args:
            resource: pods or llmdeployments.serving.pagoda.dev.
            namespace: of the objects.
            name: of one object, or `*` for all that fit `labels`.
            metric: its name.
            labels: a label selector; "": all.
            series: a selector of the metric's own labels, of which ours has none.

        Raises:
            ApiError: there is no such metric or object, or its value is not known.
        """
        if metric not in METRICS.get(resource, ()):
            raise ApiError(404, "NotFound", f"there is no metric {metric} of {resource}")
        selector = _parsed(labels)
        if not _parsed(series).fits({}):
            raise ApiError(404, "NotFound", f"{metric} has no series {series}")
        # Whoever asks past the readiness would scale on sums that grow by the second.
        if not self._is_whole():
            raise ApiError(503, "ServiceUnavailable", NOT_WHOLE)
        if resource == PODS:
            return list(self._of_pods(namespace, name, metric, selector))
        return list(self._of_deployments(namespace, name, metric, selector))

    def _of_deployments(
        self, namespace: str, name: str, metric: str, selector: Selector
    ) -> Iterator[Reading]:
        if name == EVERY:
            for (place, key), found in self._roster.deployments.items():
                signal = _signal(found.signals, metric)
                known = signal.value is not None
                if place == namespace and known and selector.fits(found.labels):
                    yield self._reading(key, metric, signal, found.scraped_at)
            return
        deployment = self._roster.deployments.get((namespace, name))
        if deployment is None:
            raise ApiError(404, "NotFound", f'{DEPLOYMENTS} "{name}" not found')
        newest = self._roster.newest((namespace, name), time.monotonic())
        signal = _signal(newest, metric)
        if signal.value is None:
            why = f"{metric} of {name} is not known: {signal.reason}"
            raise ApiError(503, "ServiceUnavailable", why)
        yield self._reading(name, metric, signal, deployment.scraped_at)

    def _of_pods(
        self, namespace: str, name: str, metric: str, selector: Selector
    ) -> Iterator[Reading]:
        """Leave out pods that load or are not heard of: the HPA knows what a missing one means."""
        found = False
        deployment = selector.exact.get(SELECTOR_LABEL)
        now = time.monotonic()
        for replica in self._roster.fresh(namespace, deployment, now):
            if name not in (EVERY, replica.name) or not selector.fits(replica.labels):
                continue
            value = self._of_pod(replica, metric, now)
            if value is not None:
                found = True
                yield self._reading(replica.name, metric, Signal(value), replica.scraped_at)
        if not found and name != EVERY:
            raise ApiError(404, "NotFound", f"{metric} of the pod {name} is not known")

    def _of_pod(self, replica: Replica, metric: str, now: float) -> float | None:
        match metric:
            case "served_tokens_per_second":
                return self._roster.served(replica, now).value
            case "kv_cache_usage" | "requests_waiting" | "requests_running":
                return replica.history.latest(metric)
        raise AssertionError(metric)

    def _reading(self, name: str, metric: str, signal: Signal, scraped_at: float) -> Reading:
        assert signal.value is not None
        window = self._window if metric in RATES else None
        return Reading(name, signal.value, scraped_at, window)


def _signal(signals: Signals | None, metric: str) -> Signal:
    if signals is None:
        return Signal(None, "NotMeasuredYet")
    signal: Signal = getattr(signals, metric)
    return signal


def _parsed(text: str) -> Selector:
    try:
        return parse(text)
    except ValueError as error:
        raise ApiError(400, "BadRequest", str(error)) from error
