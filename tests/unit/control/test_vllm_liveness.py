"""When the liveness probe of vLLM takes its figures for a hang."""

import pytest
from pagoda.engines import ENGINES, ExecProbe, LaunchRequest, vllm
from pagoda.engines.vllm_liveness import FIGURES, LIMIT, RUNNING, judge, parse

from tests.builders import only, plan


def figures(running=1.0, tokens=10.0, kv=0.1):
    return {RUNNING: running, "generation_tokens_total": tokens, "kv_cache_usage_perc": kv}


def probe(*samples):
    """Judge samples of (seconds, figures by engine, open requests) in a row; the last verdict."""
    state = {}
    for now, engines, open_requests in samples:
        state, hung, suspicious = judge(state, engines, open_requests, now)
    return hung, suspicious


def test_nothing_moves_while_requests_run():
    still = {"0": figures()}
    assert probe((0, still, 1), (LIMIT - 1, still, 1)) == (None, False)
    hung, _ = probe((0, still, 1), (60, still, 1), (LIMIT, still, 1))
    assert hung == f"1 requests are running and no figure of engine 0 has moved for {LIMIT:.0f} s"


@pytest.mark.parametrize("moved", [{"tokens": 11.0}, {"kv": 0.2}, {"running": 2.0}])
def test_any_figure_that_moves_is_life(moved):
    between = {"0": figures(**moved)}
    samples = (0, {"0": figures()}, 1), (LIMIT - 1, between, 1), (LIMIT + 1, between, 1)
    assert probe(*samples) == (None, False)


def test_idle_engine_is_alive_however_long():
    idle = {"0": figures(running=0.0)}
    assert probe((0, idle, 0), (10 * LIMIT, idle, 0)) == (None, False)


def test_time_counts_from_when_it_was_busy():
    idle, busy = {"0": figures(running=0.0)}, {"0": figures()}
    assert probe((0, idle, 0), (10 * LIMIT, idle, 0), (10 * LIMIT + 1, busy, 1)) == (None, False)


def test_one_of_several_engines_hangs():
    def both(tokens):
        return {"0": figures(tokens=tokens), "1": figures(tokens=5.0)}

    hung, _ = probe((0, both(1.0), 2), (60, both(2.0), 2), (LIMIT, both(3.0), 2))
    assert hung is not None
    assert "engine 1" in hung


def test_hang_in_the_first_step_after_idleness_has_to_be_asked_for():
    idle = {"0": figures(running=0.0)}
    begun = (0, idle, 0), (1000, idle, 1)
    assert probe(*begun, (1000 + LIMIT - 1, idle, 1)) == (None, False)
    assert probe(*begun, (1000 + LIMIT, idle, 1)) == (None, True)
    moved = {"0": figures(running=0.0, tokens=11.0)}
    assert probe(*begun, (1060, moved, 1), (1000 + LIMIT, moved, 1)) == (None, False)
    assert probe(*begun, (1060, idle, 0), (1061, idle, 1), (1000 + LIMIT, idle, 1)) == (None, False)


def test_parses_the_figures_of_each_engine():
    page = """# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b{"} 2.0
vllm:num_requests_running{engine="1",model_name="a b{"} 0.0
vllm:generation_tokens_total{model_name="old"} 1e+06
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf"} 7.0
python_info{implementation="CPython"} 1.0
"""
    assert parse(page) == {
        "0": {"num_requests_running": 2.0, "generation_tokens_total": 1e6},
        "1": {"num_requests_running": 0.0},
    }
    assert parse("") == {}


def test_it_reads_what_the_engine_table_lists():
    metrics = ENGINES["vllm"].metrics
    # What moves as long as anything is computed; the others only when a request begins or ends.
    steps = ("requests_running", "requests_waiting", "generation_tokens", "kv_cache_usage")
    named = {name for meaning in steps for name in metrics[meaning]}
    assert named <= {f"vllm:{figure}" for figure in FIGURES}
    assert metrics["prompt_tokens"][-1] == "vllm:prompt_tokens_total"


def test_the_container_runs_its_text():
    live = ENGINES["vllm"].live
    assert isinstance(live, ExecProbe)
    compile(live.command[4], "probe", "exec")
    assert live.command[5:] == (str(vllm.PORT),)
    gpu = LaunchRequest("/m", "m", 1, memory_bytes=1, cpus=1, gpus=1)
    cpu = LaunchRequest("/m", "m", 1, memory_bytes=10 << 30, cpus=3)
    assert ENGINES["vllm"].env(gpu)["PAGODA_HANG_SECONDS"] == "120"
    env = ENGINES["vllm"].env(cpu)
    assert env["PAGODA_HANG_SECONDS"] == "300"
    assert (env["OMP_NUM_THREADS"], env["VLLM_CPU_KVCACHE_SPACE"]) == ("3", "2")
    assert "OMP_NUM_THREADS" not in ENGINES["vllm"].env(gpu)


def test_hung_engine_is_not_given_the_time_to_drain():
    for kind in ("pagoda", "vllm"):
        spec = only(plan(engine={"type": kind}), "Deployment")["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] >= 70
        assert spec["containers"][0]["livenessProbe"]["terminationGracePeriodSeconds"] == 2
