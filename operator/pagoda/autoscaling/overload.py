"""Whether an LLMDeployment has more to do than its replicas can. Pure."""

from collections.abc import Sequence

from pagoda.api.conditions import REQUESTS_REFUSED, REQUESTS_WAITING
from pagoda.autoscaling.capacity import WINDOW_SECONDS, is_saturated
from pagoda.autoscaling.samples import PodHistory, PodState


def overload(pods: Sequence[PodHistory], now: float) -> str | None:
    """Judge the last window.

    Args:
        pods: all of one LLMDeployment.
        now: on the samples' clock.

    Returns:
        The name of the Ready condition's reason; "" where the replicas keep up; None where no pod
        that serves is heard of. A blind pod says nothing for or against.
    """
    heard = [p for p in pods if p.state is PodState.SERVING and not p.is_blind(now)]
    if not heard:
        return None
    if any(_refuses(pod) for pod in heard):
        return REQUESTS_REFUSED.name
    # A queue on some pods only is a matter of how requests are spread, not of too few replicas.
    return REQUESTS_WAITING.name if all(is_saturated(pod, now) for pod in heard) else ""


def _refuses(pod: PodHistory) -> bool:
    end = pod.last_time
    return end is not None and bool(pod.increase("requests_rejected", end - WINDOW_SECONDS, end))
