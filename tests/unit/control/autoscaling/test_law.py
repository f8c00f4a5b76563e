"""The demand law on fleets whose true load is known."""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.autoscaling.law import DEFAULT, LOAD, WAITING_TARGET, Signals, Target, measure
from pagoda.autoscaling.samples import PodHistory, PodSample, PodState

NOW = 200.0
EVERY = 5.0
Series = Callable[[float], float]


@dataclass(frozen=True)
class Load:
    """What one engine tells, as functions of time."""

    rate: float = 100.0  # generated tokens per second
    prompts: float = 0.0
    requests: float = 1.0  # finished per second
    rejected: float = 0.0  # per second
    waiting: Series = lambda t: 0.0
    running: Series = lambda t: 10.0
    kv: float = 0.5


def pod(load: Load | None = None, start: float = 0.0, end: float = NOW, **kw) -> PodHistory:
    load = load or Load()
    it = PodHistory(**{"state": PodState.SERVING, "start_seconds": 5.0, **kw})
    for i in range(int((end - start) / EVERY) + 1):
        t = EVERY * i
        it.add(
            PodSample(
                start + t,
                generation_tokens=load.rate * t,
                prompt_tokens=load.prompts * t,
                requests_finished=load.requests * t,
                requests_rejected=load.rejected * t,
                requests_waiting=load.waiting(start + t),
                requests_running=load.running(start + t),
                kv_cache_usage=load.kv,
            )
        )
    return it


def ask(pods, spec=None, target=None, previous=None, now=NOW, **constants) -> Signals:
    return measure(
        pods,
        now=now,
        spec_replicas=len(pods) if spec is None else spec,
        target=target,
        previous=previous,
        law=replace(DEFAULT, **constants),
    )


def demand(*args, **kw) -> float:
    value = ask(*args, **kw).demand_tokens_per_second.value
    assert value is not None
    return value


def values(signals: Signals) -> list[float | None]:
    return [value for value, _ in astuple(signals)]


loads = st.builds(
    Load,
    rate=st.floats(0, 5000),
    prompts=st.floats(0, 5000),
    requests=st.floats(0.01, 20),
    rejected=st.floats(0, 20),
    waiting=st.builds(
        lambda level, slope: lambda t: max(level + slope * t, 0.0),
        st.floats(0, 50),
        st.floats(-1, 1),
    ),
    kv=st.floats(0, 1),
)


# --- Demand -----------------------------------------------------------------------------------


def test_below_saturation_demand_is_what_is_served():
    signals = ask([pod(Load(rate=100, prompts=40))] * 3)
    assert signals.served_tokens_per_second.value == pytest.approx(330)
    assert signals.demand_tokens_per_second.value == pytest.approx(330)


def test_past_saturation_demand_is_what_arrives():
    # 1 request of 100 tokens done and 3 more waiting per second: 4 arrive.
    full = Load(waiting=lambda t: 3 * t)
    got = demand([pod(full)], drain_seconds=1e9)
    assert got == pytest.approx(400, rel=0.03)  # what still runs counts as half done


def test_a_queue_that_no_longer_grows_still_asks_for_the_capacity_to_drain_it():
    # 600 requests of 100 tokens in 30 s are 2,000 tokens/s, at full load beside 100 arriving.
    got = demand([pod(Load(waiting=lambda t: 600.0))])
    assert got == pytest.approx(LOAD * 2100, rel=0.05)


def test_a_queue_that_shrinks_is_work_that_came_before():
    half = Load(waiting=lambda t: 200 - 0.5 * t)
    assert demand([pod(half)], drain_seconds=1e9) == pytest.approx(50, rel=0.05)


def test_refused_requests_count_up_to_those_taken():
    assert demand([pod(Load(rejected=0.5))]) == pytest.approx(150, rel=0.03)
    assert demand([pod(Load(rejected=50))]) == pytest.approx(200, rel=0.03)


@given(loads, st.floats(0, 1000), st.floats(0, 10))
def test_demand_never_falls_with_a_longer_queue(load, level, slope):
    longer = replace(load, waiting=lambda t: load.waiting(t) + level + slope * t)
    low, high = demand([pod(load)]), demand([pod(longer)])
    assert high >= low * (1 - 1e-9)


@given(loads, st.integers(2, 5))
def test_demand_is_proportional_to_the_pods_that_share_a_load(load, times):
    # The short window's certainty grows with the number of requests; apart from it nothing does.
    one = demand([pod(load)], certainty=1e9)
    assert demand([pod(load)] * times, certainty=1e9) == pytest.approx(times * one)


def test_a_sharp_rise_is_seen_by_the_short_window_and_noise_is_not():
    step = Load(waiting=lambda t: max(t - NOW + 15, 0.0) * 9)
    assert demand([pod(step)], drain_seconds=1e9) > 500  # 1,000 arrive; two deviations off
    blip = Load(waiting=lambda t: 1.0 if t == NOW else 0.0)
    assert demand([pod(blip)]) < 110


def test_the_load_end_shows_within_a_window():
    idle = pod(Load(rate=100))
    last = idle.samples[-1]
    for i in range(1, 20):
        idle.add(replace(last, time=NOW + EVERY * i, requests_running=0.0))
    assert demand([idle], now=NOW + 95) == 0.0


# --- Starting replicas ------------------------------------------------------------------------


def test_a_backlog_that_grows_through_a_long_start_does_not_run_away():
    # One replica does 100, 300 arrive, and four more were ordered at t = 0.
    target = Target.of_capacity(100)
    asked = []
    for minute in range(1, 11):
        end = 60.0 * minute
        busy = pod(Load(waiting=lambda t: 2 * t), end=end)
        new = [PodHistory(created=0.0) for _ in range(4)]
        asked.append(demand([busy, *new], 5, target, now=end) / target.per_replica)
    assert max(asked) <= 5 * (1 + DEFAULT.rise)


def test_backlog_seconds_are_what_the_ordered_replicas_will_not_have_done():
    target = Target.of_capacity(100)
    full = Load(waiting=lambda t: 60.0)  # 6,000 tokens
    alone = ask([pod(full)], 1, target).backlog_seconds.value
    assert alone == pytest.approx(60, rel=0.05)
    # Two more have 200 to spare for 30 s, the drain time.
    assert ask([pod(full)], 3, target).backlog_seconds.value == pytest.approx(0, abs=1)
    assert ask([pod(full)], 2, target).backlog_seconds.value == pytest.approx(30, rel=0.1)


def test_loading_pods_change_no_sum():
    serving = [pod(), pod()]
    loading = [PodHistory(created=NOW - 10) for _ in range(3)]
    assert values(ask([*serving, *loading], 2)) == values(ask(serving, 2))


# --- What is not known ------------------------------------------------------------------------


def test_nothing_is_told_before_there_is_a_window_or_a_pod():
    for pods, why in [
        ([], "NoServingPods"),
        ([PodHistory()], "NoServingPods"),
        ([pod(start=NOW - 10)], "WindowTooShort"),
        ([pod(end=NOW - 60)], "NoFreshSamples"),
    ]:
        signals = ask(pods, 1)
        assert values(signals) == [None] * 6
        assert signals.demand_tokens_per_second.reason == why


@given(st.lists(loads, min_size=2, max_size=5), st.data())
def test_a_blind_pod_lowers_nothing(each, data):
    pods = [pod(load) for load in each]
    before = ask(pods)
    blind = data.draw(st.sets(st.integers(0, len(pods) - 1), min_size=1, max_size=len(pods) - 1))
    later = [pod(load, end=NOW if i in blind else NOW + 30) for i, load in enumerate(each)]
    after = ask(later, previous=before, now=NOW + 30)
    for old, new in zip(values(before), values(after), strict=True):
        assert old is None or new >= old


def test_the_others_stand_for_a_blind_pod():
    pods = [pod(), pod(), pod(end=NOW - 60)]
    assert demand(pods) == pytest.approx(300)


def test_a_pod_that_has_just_become_ready_is_not_one_to_stand_for():
    new = PodHistory(state=PodState.SERVING, ready_at=NOW - 3, start_seconds=5)
    assert demand([pod(), pod(), new]) == pytest.approx(200)


def test_a_page_without_the_counter_it_had_is_blindness_too():
    lost = pod()
    lost.add(PodSample(NOW + 1, requests_waiting=0, requests_running=0))
    assert demand([pod(), lost]) == pytest.approx(200)


def test_an_engine_that_tells_little_is_not_taken_for_idle():
    mute = PodHistory(state=PodState.SERVING)
    for i in range(41):
        mute.add(PodSample(EVERY * i, generation_tokens=100 * EVERY * i))
    signals = ask([mute], target=Target.of_capacity(1000))
    assert signals.demand_tokens_per_second.value == pytest.approx(100)
    assert signals.demand_tokens_per_second.reason == "WaitingNotReported"
    assert values(signals)[2:] == [None] * 4
    assert ask([PodHistory(state=PodState.SERVING, samples=pod().samples)]).kv_cache_usage.value


# --- Pods come and go -------------------------------------------------------------------------


def test_a_replica_that_never_had_a_request_is_idle_and_not_unknown():
    idle = Load(rate=0.0, requests=0.0, running=lambda t: 0.0, kv=0.0)
    assert values(ask([pod(idle)], target=Target.given(28.0))) == [0.0] * 6


def test_a_pod_replaced_under_load_leaves_no_dip():
    for since in range(0, 150, 5):
        now = 300.0 + since
        old = pod(end=300.0, state=PodState.GONE)
        new = pod(start=300.0, end=now)
        others = [pod(end=now) for _ in range(3)]
        pods = [*others, new, old] if since < 120 else [*others, new]
        assert demand(pods, 4, now=now) == pytest.approx(400, rel=0.08)


def test_gauges_of_a_pod_that_is_gone_no_longer_count():
    gone = pod(Load(waiting=lambda t: 50.0, kv=1.0), state=PodState.GONE)
    signals = ask([pod(), gone], 1)
    assert signals.requests_waiting.value == 0
    assert signals.kv_cache_usage.value == pytest.approx(0.5)


def test_a_new_pod_begins_with_nothing_and_one_found_serving_with_what_it_had():
    steady = [pod(), pod()]
    new = pod(start=NOW - 20, ready_at=NOW - 23)
    assert demand([*steady, new], certainty=1e9) > 210  # ten more run
    # A restarted scraper meets the pods one after the other; what they run is not new.
    found = [pod(start=NOW - 30 + i, end=NOW + i, ready_at=-1000.0) for i in range(4)]
    assert demand(found, now=NOW + 3) <= 400


# --- Engines that count at a request's end ----------------------------------------------------


def lumpy(end: float) -> PodHistory:
    """Ten requests at a time, twenty from t = 400 on, each of 400 tokens and 40 s, all at once."""
    it = PodHistory(state=PodState.SERVING, counts_at_finish=True, start_seconds=5)
    tokens = finished = 0.0
    for i in range(int(end / EVERY) + 1):
        t = EVERY * i
        running = 20.0 if t >= 400 else 10.0
        if t and t % 40 == 0:
            ended = 20.0 if t >= 440 else 10.0
            tokens, finished = tokens + 400 * ended, finished + ended
        it.add(
            PodSample(
                t,
                generation_tokens=tokens,
                requests_finished=finished,
                requests_waiting=0.0,
                requests_running=running,
            )
        )
    return it


@pytest.mark.parametrize("end", [320, 330, 340, 350, 395])
def test_between_the_lumps_the_rate_is_steady(end):
    served = ask([lumpy(end)], now=end).served_tokens_per_second.value
    assert served == pytest.approx(100, rel=0.2)  # right after an end all are younger than half


def test_long_requests_that_run_are_not_held_against_those_that_have_ended():
    # Ten of 400 tokens have ended, ten more have run for 35 of their 40 s and are not counted yet.
    assert ask([lumpy(75)], now=75).served_tokens_per_second.value == pytest.approx(100, rel=0.3)


def test_a_rise_shows_before_the_first_request_of_it_has_ended():
    assert demand([lumpy(435)], now=435) > 130
    raw = lumpy(435)
    raw.counts_at_finish = False
    assert ask([raw], now=435).served_tokens_per_second.value < 110


def test_what_runs_before_anything_was_counted_is_unknown_and_not_zero():
    assert ask([lumpy(35)], now=35).demand_tokens_per_second.reason == "TokensNotReported"


# --- The published value and the HPA ----------------------------------------------------------

TARGET = Target.of_capacity(1000)  # 700 a replica


def replicas(load_in_replicas: float, spec: int) -> int:
    share = load_in_replicas * TARGET.per_replica / spec
    got = demand([pod(Load(rate=share))] * spec, spec, TARGET)
    return max(math.ceil(round(got * 1000) / (TARGET.per_replica * 1000)), 1)


@pytest.mark.parametrize(
    ("load", "spec", "expected"),
    [
        (4.3, 4, 4),  # within the rise
        (4.5, 4, 5),
        (9.0, 4, 9),
        (2.9, 4, 4),  # three would have 3 % to spare
        (2.8, 4, 3),
        (1.93, 4, 3),  # two would have 3 % to spare, three have room
        (0.2, 4, 1),
        (1.05, 1, 1),
        (0.98, 2, 2),
    ],
)
def test_hysteresis_is_in_the_published_value(load, spec, expected):
    assert replicas(load, spec) == expected


@given(st.floats(0.05, 12), st.integers(1, 10))
def test_what_the_hpa_makes_of_it_is_a_fixed_point(load, spec):
    asked = replicas(load, spec)
    assert replicas(load, asked) == asked
    assert asked >= load / (1 + DEFAULT.rise) * 0.999
    assert asked <= math.ceil(load / (1 - DEFAULT.fall))


@given(st.floats(0.05, 12), st.floats(0.05, 12), st.integers(1, 10))
def test_more_load_never_asks_for_fewer(a, b, spec):
    low, high = sorted((a, b))
    assert replicas(low, spec) <= replicas(high, spec)


def test_without_a_capacity_the_queue_is_bounded_while_replicas_start():
    full = [pod(Load(waiting=lambda t: 64.0))]
    assert ask(full, 1).requests_waiting.value == 64
    starting = ask([*full, PodHistory(created=NOW - 5)], 2).requests_waiting
    assert starting.value == WAITING_TARGET * 2
    assert starting.reason == "ReplicasStarting"
    assert ask(full, 2, TARGET).requests_waiting.value == 64


def test_without_a_capacity_an_empty_queue_is_no_reason_for_fewer_replicas():
    def kept(*rates: float) -> int:
        signals = ask([pod(Load(rate=r)) for r in rates])
        return math.ceil(signals.requests_waiting.value / WAITING_TARGET)

    assert kept(100, 100, 100, 100) == 4
    assert kept(100, 100, 10, 10) == 3
    assert kept(1, 0, 0, 0) <= 1
    assert kept(0, 0) <= 1
