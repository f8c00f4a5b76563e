"""Roll-outs on nodes whose GPUs are taken, and drains of nodes: real scheduler and controllers, fake
nodes (kwok)."""

import datetime
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dev.cluster import Cluster, up
from dev.cluster.kwok import DRAIN_FOR
from tests.builders import manifest
from tests.integration.control.conftest import StartOperator, with_crds
from tests.kube import Api, Object, eventually
from tests.operator_process import OperatorProcess
from tests.pod_history import PodHistory

GPU = "nvidia.com/gpu"
PRODUCT = "FAKE-80GB"
SURGE, REPLACE = (1, 0), (0, 1)
LONG = "90s"  # a drain that the test ends when it has seen what it waits for
_numbers = itertools.count()


@pytest.fixture(scope="module")
def gpu_cluster() -> Iterator[Cluster]:
    with up(f"pytest-{os.getpid()}-gpus", scheduler=True) as cluster:
        cluster.start_kwok(ready_seconds=0.5, drain_seconds=0.5)
        yield with_crds(cluster)


@pytest.fixture
def nodes(gpu_cluster: Cluster) -> Iterator[Callable[..., None]]:
    """Make nodes with GPUs; they are gone after the test."""
    made: list[str] = []

    def make(name: str, gpus: int) -> None:
        made.append(name)
        gpu_cluster.add_fake_node(name, room={GPU: str(gpus)}, labels={f"{GPU}.product": PRODUCT})

    yield make
    if made:
        gpu_cluster.kubectl("delete", "node", *made)


@pytest.fixture
def api(request: pytest.FixtureRequest, gpu_cluster: Cluster, nodes: Any) -> Iterator[Api]:
    """A namespace of the test's own; its pods are gone before the nodes are."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))
    name = f"g{next(_numbers)}-{words[:20]}".strip("-")
    gpu_cluster.kubectl("create", "namespace", name)
    made = Api(gpu_cluster, name)
    yield made
    gpu_cluster.kubectl("delete", "namespace", name, "--wait=false")
    eventually(lambda: not made.list("pods"), timeout=60, what="the pods are gone")


@pytest.fixture
def operator(operator_process: StartOperator) -> OperatorProcess:
    """An operator of the whole cluster: it may read nodes."""
    return operator_process(namespace="").start()


def llmd(
    api: Api,
    *,
    engine: str = "vllm",
    seed: int = 0,
    gpus: int = 4,
    replicas: int = 2,
    **fields: Any,
) -> Object:
    return manifest(
        "toy",
        api.namespace,
        model={"uri": "hf://org/toy"},
        engine={"type": engine, "args": [f"--seed={seed}"]},
        resources={"gpu": {"count": gpus, "product": PRODUCT}},
        replicas=replicas,
        **fields,
    )


def serve(api: Api, **fields: Any) -> None:
    api.apply(llmd(api, **fields))
    api.wait_reason("toy", "Ready", timeout=30)


def strategy(api: Api) -> tuple[int, int]:
    rolling = api.get("deployment", "toy")["spec"]["strategy"]["rollingUpdate"]
    return rolling["maxSurge"], rolling["maxUnavailable"]


def generation(api: Api) -> int:
    return int(api.get("deployment", "toy")["metadata"]["generation"])


def seeds(api: Api) -> set[str]:
    pods = api.list("pods", "serving.pagoda.dev/llmdeployment=toy")
    return {next(a for a in p["spec"]["containers"][0]["args"] if "seed" in a) for p in pods}


def unplaced_seconds(api: Api) -> float:
    """How long ago a pod was first found to have no place."""
    pods = api.list("pods", "serving.pagoda.dev/llmdeployment=toy")
    conditions = [c for pod in pods for c in pod["status"].get("conditions", ())]
    (since,) = (
        datetime.datetime.fromisoformat(c["lastTransitionTime"])
        for c in conditions
        if (c["type"], c["status"]) == ("PodScheduled", "False")
    )
    return (datetime.datetime.now(datetime.UTC) - since).total_seconds()


def wait_for_seed(api: Api, seed: int) -> None:
    """Wait until all pods have it, the resource is Ready and the strategy is at rest."""
    eventually(
        lambda: seeds(api) == {f"--seed={seed}"}, timeout=60, what=f"only seed {seed} is left"
    )
    api.wait_reason("toy", "Ready", timeout=30)


def let_drain(api: Api, duration: str) -> None:
    """Give the pods that there are requests to finish."""
    api.kubectl("annotate", "pods", "--all", f"{DRAIN_FOR}={duration}")


def end_drains(api: Api) -> None:
    """Let the pods that there are finish soon, also those that drain for long already."""
    # Pods that go meanwhile are an error to kubectl.
    again = ("annotate", "pods", "--all", "--overwrite", f"{DRAIN_FOR}=1s")
    api.kubectl(*again, check=False)


@pytest.mark.parametrize("engine", ["pagoda", "vllm"])
def test_change_without_a_spare_gpu_finishes_one_after_another(
    api: Api, nodes, operator: OperatorProcess, engine: str
):
    nodes("full", 8)
    serve(api, engine=engine)
    before = generation(api)
    with PodHistory(api, serving=2) as history:
        api.apply(llmd(api, seed=1, engine=engine))
        wait_for_seed(api, 1)
        eventually(lambda: strategy(api) == SURGE, what="the strategy is restored")
    assert history.fewest == 1
    assert generation(api) - before == 3, "the change, in place, back again"
    operator.settle()
    assert generation(api) - before == 3


def test_change_with_room_for_one_more_never_serves_with_fewer(
    api: Api, nodes, operator: OperatorProcess
):
    """The second new pod waits for the room of the first old one, longer than the patience."""
    nodes("roomy", 12)
    serve(api)
    let_drain(api, LONG)
    before = generation(api)
    with PodHistory(api, serving=2) as history:
        api.apply(llmd(api, seed=1))
        waiting = api.wait_reason("toy", "WaitingForDrain")
        assert "finishing its requests" in waiting["message"]
        end_drains(api)
        wait_for_seed(api, 1)
    assert history.fewest == 2
    assert max(moment.placed for moment in history.moments) == 3
    assert generation(api) - before == 1, "the strategy was left alone"


def test_one_replica_without_room_announces_its_outage(api: Api, nodes, operator: OperatorProcess):
    nodes("full", 4)
    serve(api, replicas=1)
    let_drain(api, "3s")
    with PodHistory(api, serving=1) as history:
        api.apply(llmd(api, seed=1, replicas=1))
        announced = api.wait_reason("toy", "ReplacingInPlace")
        assert "not served from the end of its requests" in announced["message"]
        assert announced["status"] == "False"
        wait_for_seed(api, 1)
    # Only the drain, the scheduler's back-off and the start: the successor was there all the time.
    assert min(moment.staying for moment in history.moments) == 1
    assert 2 < history.outage < 20
    eventually(lambda: strategy(api) == SURGE)


def test_three_edits_end_in_the_last(api: Api, nodes, operator: OperatorProcess):
    nodes("full", 8)
    serve(api)
    let_drain(api, LONG)
    with PodHistory(api, serving=2) as history:
        api.apply(llmd(api, seed=1))
        eventually(lambda: "--seed=1" in seeds(api))
        api.apply(llmd(api, seed=2))
        eventually(lambda: strategy(api) == REPLACE)
        api.apply(llmd(api, seed=3))
        end_drains(api)
        wait_for_seed(api, 3)
        eventually(lambda: strategy(api) == SURGE)
    assert history.fewest == 1


def test_impossible_request_leaves_serving_pods_alone(api: Api, nodes, operator: OperatorProcess):
    nodes("a", 8)
    nodes("b", 8)
    serve(api)
    with PodHistory(api, serving=2) as history:
        api.apply(llmd(api, gpus=16))
        eventually(lambda: "2 Insufficient nvidia.com/gpu" in api.condition("toy")["message"])
        assert api.condition("toy")["reason"] in ("InsufficientGPU", "Unschedulable")
        passes = operator.passes()
        eventually(
            lambda: operator.passes() >= passes + 2,
            what="it was looked at again, after the patience and after that",
        )
        assert strategy(api) == SURGE
        assert api.condition("toy", "Available")["status"] == "True"
        serve(api)
    assert history.fewest == 2


def test_replica_grows_into_what_is_free_beside_it(api: Api, nodes, operator: OperatorProcess):
    """8 fit once the 4 of the old pod are back: that is seen on the node, not in the message."""
    nodes("half-free", 8)
    serve(api, replicas=1)
    api.apply(llmd(api, seed=1, gpus=8, replicas=1))
    api.wait_reason("toy", "ReplacingInPlace")
    wait_for_seed(api, 1)


def test_cordoned_node_is_no_place_for_the_successor(api: Api, nodes, operator: OperatorProcess):
    nodes("cordoned", 4)
    serve(api, replicas=1)
    nodes("taken", 1)
    api.cluster.kubectl("cordon", "cordoned")
    with PodHistory(api, serving=1) as history:
        api.apply(llmd(api, seed=1, replicas=1))
        eventually(lambda: "1 Insufficient nvidia.com/gpu" in api.condition("toy")["message"])
        passes = operator.passes()
        eventually(lambda: operator.passes() >= passes + 2)
        assert (strategy(api), history.fewest) == (SURGE, 1)
        api.cluster.kubectl("uncordon", "cordoned")
        wait_for_seed(api, 1)


def test_strategy_of_the_user_is_kept(api: Api, nodes, operator: OperatorProcess):
    nodes("full", 8)
    serve(api, rollout={"strategy": "Surge"})
    api.apply(llmd(api, seed=1, rollout={"strategy": "Surge"}))
    eventually(lambda: "Insufficient nvidia.com/gpu" in api.condition("toy")["message"])
    eventually(lambda: unplaced_seconds(api) > 2, what="the patience is over")
    passes = operator.passes()
    api.patch("llmd", "toy", {"metadata": {"labels": {"touched": "yes"}}})
    eventually(lambda: operator.passes() > passes, what="it was looked at again")
    operator.settle()
    assert strategy(api) == SURGE
    api.apply(llmd(api, seed=1, rollout={"strategy": "Replace"}))
    wait_for_seed(api, 1)
    operator.settle()
    assert strategy(api) == REPLACE
    api.apply(llmd(api, seed=1))
    eventually(lambda: strategy(api) == SURGE)
    operator.settle()
    assert seeds(api) == {"--seed=1"}


def test_operator_killed_in_mid_roll_out_goes_on(api: Api, nodes, operator_process: StartOperator):
    nodes("full", 8)
    first = operator_process("first", namespace="").start()
    serve(api)
    let_drain(api, LONG)
    before = generation(api)
    with PodHistory(api, serving=2) as history:
        api.apply(llmd(api, seed=1))
        eventually(lambda: strategy(api) == REPLACE)
        first.kill()
        second = operator_process("second", namespace="").start()
        eventually(second.leads)
        assert seeds(api) == {"--seed=0", "--seed=1"}, "it leads in mid-roll-out"
        end_drains(api)
        wait_for_seed(api, 1)
        eventually(lambda: strategy(api) == SURGE)
    assert history.fewest == 1
    assert generation(api) - before == 3, "nothing was undone in between"


def test_operator_of_one_namespace_goes_by_the_scheduler_s_message(
    api: Api, nodes, operator_process: StartOperator
):
    nodes("full", 8)
    operator_process().start()
    serve(api)
    api.apply(llmd(api, seed=1))
    wait_for_seed(api, 1)
    eventually(lambda: strategy(api) == SURGE)


def drain(api: Api, node: str) -> None:
    """Cordon and evict, as often as it takes."""
    api.cluster.kubectl(
        "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"
    )


def placed_on(api: Api) -> set[str]:
    pods = api.list("pods", "serving.pagoda.dev/llmdeployment=toy")
    return {pod["spec"].get("nodeName", "") for pod in pods}


def move_from(api: Api, nodes, name: str, **fields: Any) -> None:
    """Have the model served from node `name` beside an empty one of the same size."""
    nodes(name, 4)
    serve(api, **fields)
    nodes(f"{name}-spare", 4)


def test_only_replica_is_never_missing_in_a_drain(api: Api, nodes, operator: OperatorProcess):
    move_from(api, nodes, "left", replicas=1)
    before = generation(api)
    with PodHistory(api, serving=1) as history:
        drain(api, "left")
        api.wait_reason("toy", "Ready", timeout=30)
    assert placed_on(api) == {"left-spare"}
    assert history.fewest == 1
    assert max(moment.placed for moment in history.moments) == 2
    events = [e["reason"] for e in api.list("events.events.k8s.io")]
    assert "LeavingNode" in events
    assert generation(api) - before == 1
    operator.settle()
    assert generation(api) - before == 1
    api.cluster.kubectl("uncordon", "left")
    with PodHistory(api, serving=1) as history:
        drain(api, "left-spare")
        api.wait_reason("toy", "Ready", timeout=30)
    assert (placed_on(api), history.fewest) == ({"left"}, 1)


def test_replica_without_a_place_to_go_announces_the_outage_and_lets_the_drain_go_on(
    api: Api, nodes, operator: OperatorProcess
):
    nodes("lone", 4)
    serve(api, replicas=1)
    with PodHistory(api, serving=1) as history:
        api.cluster.kubectl("cordon", "lone")
        ahead = api.wait_reason("toy", "OutageAhead")
        assert "cordoned node lone: 0/1 nodes" in ahead["message"]
        assert ahead["status"] == "True"
        assert history.fewest == 1
        drain(api, "lone")
        api.wait_reason("toy", "Unschedulable")
    api.cluster.kubectl("uncordon", "lone")
    api.wait_reason("toy", "Ready", timeout=30)


def test_cordon_taken_back_leaves_the_replica_in_place(api: Api, nodes, operator: OperatorProcess):
    nodes("hesitant", 4)
    serve(api, replicas=1)
    with PodHistory(api, serving=1) as history:
        api.cluster.kubectl("cordon", "hesitant")
        api.wait_reason("toy", "OutageAhead")
        api.cluster.kubectl("uncordon", "hesitant")
        api.wait_reason("toy", "Ready", timeout=30)
        eventually(lambda: placed_on(api) == {"hesitant"}, what="the waiting successor is gone")
        operator.settle()
    assert history.fewest == 1
    assert {pod["status"]["phase"] for pod in api.list("pods")} == {"Running"}


def test_user_who_takes_outages_has_no_drain_held_up(api: Api, nodes, operator: OperatorProcess):
    move_from(api, nodes, "quick", replicas=1, rollout={"strategy": "Replace"})
    with PodHistory(api, serving=1) as history:
        drain(api, "quick")
        api.wait_reason("toy", "Ready", timeout=30)
        eventually(lambda: placed_on(api) == {"quick-spare"})
    assert history.fewest == 0


def test_drain_goes_on_with_the_next_operator(api: Api, nodes, operator_process: StartOperator):
    first = operator_process("first", namespace="").start()
    move_from(api, nodes, "upgraded", replicas=1)
    first.kill()
    with PodHistory(api, serving=1) as history:
        api.cluster.kubectl("cordon", "upgraded")
        operator_process("second", namespace="").start()
        drain(api, "upgraded")
        eventually(lambda: placed_on(api) == {"upgraded-spare"})
    assert history.fewest == 1


def test_two_replicas_leave_one_at_a_time(api: Api, nodes, operator: OperatorProcess):
    nodes("both", 8)
    serve(api, replicas=2)
    nodes("both-spare", 8)
    before = generation(api)
    with PodHistory(api, serving=2) as history:
        drain(api, "both")
        api.wait_reason("toy", "Ready", timeout=30)
        eventually(lambda: placed_on(api) == {"both-spare"})
    assert history.fewest == 1
    assert generation(api) == before
