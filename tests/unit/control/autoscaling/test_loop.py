"""The law, the HPA and replicas that batch, in a loop: the bench's simulator, short and seeded."""

import pytest
from pagoda.autoscaling.law import LOAD, Target

from tests.bench.autoscaling.compare import MODEL, Capacity, saturate
from tests.bench.autoscaling.engine import Model, Replica, Request
from tests.bench.autoscaling.load import CHAT, Scenario, constant, step
from tests.bench.autoscaling.policies import HpaOnPods, Ours, served_tokens
from tests.bench.autoscaling.world import Autoscaler, Result, World

CAPACITY: Capacity = saturate(CHAT)


def ours() -> Ours:
    return Ours(Target.of_capacity(CAPACITY.tokens))


def run(
    scenario: Scenario, scaler: Autoscaler, *, first: int, delay: float, seed: int = 0
) -> Result:
    requests = scenario.requests(seed, CAPACITY.requests)
    return World(MODEL, requests, scenario.duration, delay, first, seed).run(scaler)


def counts(*args, **kw) -> list[tuple[float, int]]:
    return [(time, spec) for time, spec, _ in run(*args, **kw).counts]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("of", "first"), [(LOAD, 4), (1.0, 6)], ids=["target", "capacity"])
def test_a_steady_load_at_95_percent_does_not_flap(of, first, seed):
    level = 0.95 * 4 * of
    steady = Scenario("steady", constant(level), level, duration=1200)
    result = run(steady, ours(), first=first, delay=5, seed=seed)
    assert result.changes == 0  # it may settle one higher, and stay


def test_demand_scales_out_where_served_tokens_stall():
    jump = Scenario("jump", step(0.6, 3.0, 100, 700), 0.6, duration=700)
    target = LOAD * CAPACITY.tokens
    after = {
        name: dict(counts(jump, scaler, first=1, delay=60))[160.0]
        for name, scaler in [("ours", ours()), ("served", HpaOnPods(served_tokens, target))]
    }
    assert after["served"] <= 2  # one replica cannot show more than it does
    assert after["ours"] >= 4


@pytest.mark.parametrize("delay", [60, 300])
def test_a_long_start_orders_what_the_load_needs_and_little_more(delay):
    jump = Scenario("jump", step(0.6, 3.0, 100, 9999), 0.6, duration=900)
    seen = counts(jump, ours(), first=1, delay=delay)
    assert seen[-1][1] >= 5
    assert max(spec for _, spec in seen) <= 8  # 3 / 0.7 is 5, and at most 3 more drain the queue


def test_the_end_of_the_load_scales_in():
    end = Scenario("end", step(3.0, 0.2, 100, 9999), 3.0, duration=900)
    assert counts(end, ours(), first=5, delay=5)[-1][1] == 1


def test_capacity_is_learned_from_the_first_overload():
    jump = Scenario("jump", step(0.6, 3.0, 100, 9999), 0.6, duration=600)
    scaler = Ours(None)
    counts(jump, scaler, first=1, delay=60)
    assert scaler.target is not None
    assert scaler.target.capacity == pytest.approx(CAPACITY.tokens, rel=0.15)


def test_a_replica_batches_and_bounds():
    model = Model(base=1.0, per_request=0.1, per_prompt_token=0.01, max_num_seqs=2, max_queue=1)
    replica = Replica(model, 0.0)
    asked = [Request(0.0, 10, 3) for _ in range(4)]
    assert [replica.offer(r, 0.0) for r in asked] == [True, True, True, False]
    replica.advance(2.0)
    # Step 1 computes both prompts (1 + 20 x 0.01), then two steps of a batch of 2 (1.2 each).
    assert asked[0].first_token == asked[1].first_token == pytest.approx(1.2)
    replica.advance(3.7)
    assert asked[0].finish == pytest.approx(3.6)
    assert asked[0].tpot == pytest.approx(1.2)
    assert (replica.rejected, replica.finished, replica.running) == (1, 2, 1)
