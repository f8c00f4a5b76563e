"""When an LLMDeployment has more to do than its replicas can."""

from pagoda.autoscaling.overload import overload
from pagoda.autoscaling.samples import PodHistory, PodSample, PodState


def pod(
    *waiting: float, refused: tuple[float, ...] = (), state: PodState = PodState.SERVING
) -> PodHistory:
    """Scraped every 5 s, the last time at 30 s."""
    it = PodHistory(state=state)
    refused = refused or (0.0,) * len(waiting)
    first = 35.0 - 5.0 * len(waiting)
    for i, (queue, count) in enumerate(zip(waiting, refused, strict=True)):
        it.add(PodSample(first + 5.0 * i, requests_waiting=queue, requests_rejected=count))
    return it


IDLE, BUSY = (0.0,) * 7, (2.0,) * 7


def test_a_queue_that_empties_once_keeps_up():
    assert overload([pod(*IDLE)], 30) == ""
    assert overload([pod(2, 2, 2, 0, 2, 2, 2)], 30) == ""
    assert overload([pod(*BUSY)], 30) == "RequestsWaiting"


def test_one_idle_replica_is_enough_to_keep_up():
    assert overload([pod(*BUSY), pod(*IDLE)], 30) == ""
    assert overload([pod(*BUSY), pod(*BUSY)], 30) == "RequestsWaiting"


def test_any_refusal_tells():
    assert overload([pod(*IDLE, refused=(4, 4, 4, 4, 4, 5, 5)), pod(*IDLE)], 30) == (
        "RequestsRefused"
    )
    assert overload([pod(*IDLE, refused=(4,) * 7)], 30) == "", "before this window"


def test_who_does_not_serve_or_is_not_heard_of_says_nothing():
    assert overload([], 30) is None
    assert overload([pod(*BUSY)], 90) is None
    assert overload([pod(*BUSY, state=PodState.LEAVING)], 30) is None
    refusing = pod(*BUSY, refused=(0, 0, 0, 0, 0, 9, 9), state=PodState.LEAVING)
    assert overload([refusing, pod(*IDLE)], 30) == ""
    assert overload([pod(2, 2), pod(*BUSY)], 30) == "", "a new one has not been full for long"
