"""Pods on GPUs, models from a hub, vLLM: what they ask for."""

import contextlib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.render.quantity import parse_quantity

from tests.builders import only, plan

HUB = {"uri": "hf://Qwen/Qwen3-0.6B"}
ENGINES = ["pagoda", "vllm"]


def pod(**fields):
    return only(plan(**fields), "Deployment")["spec"]["template"]["spec"]


def engine(**fields):
    (container,) = pod(**fields)["containers"]
    return container


def flag(container, name):
    return container["args"][container["args"].index(name) + 1]


def test_gpu_makes_it_vllm_unless_the_user_says_otherwise():
    gpu = {"gpu": {}}
    assert plan(resources=gpu).effective.profile.name == "vllm"
    assert plan(resources=gpu, engine={"type": "pagoda"}).effective.profile.name == "pagoda"


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("fields", "gpus", "tensor"),
    [
        ({"resources": {"gpu": {}}}, "1", "1"),
        ({"resources": {"gpu": {"count": 2}}}, "2", "2"),
        ({"resources": {"gpu": {"count": 4}}, "parallelism": {"tensor": 2}}, "4", "2"),
    ],
)
def test_model_is_spread_over_the_gpus_asked_for(kind, fields, gpus, tensor):
    container = engine(engine={"type": kind}, **fields)
    for amounts in container["resources"].values():
        assert amounts["nvidia.com/gpu"] == gpus
    assert flag(container, "--tensor-parallel-size") == tensor


@pytest.mark.parametrize("kind", ENGINES)
def test_tensor_parallel_is_the_operators_on_gpus(kind):
    args = {"engine": {"type": kind, "args": ["--tensor-parallel-size=8"]}}
    on_gpus = plan(resources={"gpu": {"count": 2}}, **args).effective
    assert on_gpus.overridden_args == ["--tensor-parallel-size=8"]
    assert plan(**args).effective.overridden_args == []


@pytest.mark.parametrize(
    ("resource", "label"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu.product"),
        ("nvidia.com/mig-3g.40gb", "nvidia.com/gpu.product"),
        ("amd.com/gpu", "amd.com/gpu.product-name"),
    ],
)
def test_product_selects_nodes_and_their_taint_is_tolerated(resource, label):
    made = pod(
        resources={"gpu": {"resourceName": resource, "product": "X1"}},
        scheduling={"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "t"}]},
    )
    assert made["nodeSelector"] == {label: "X1", "zone": "a"}
    assert made["tolerations"] == [
        {"key": "t"},
        {"key": resource, "operator": "Exists", "effect": "NoSchedule"},
    ]


@pytest.mark.parametrize(
    ("fields", "cpu", "memory", "shared"),
    [
        ({}, "1", "2Gi", None),
        ({"engine": {"type": "vllm"}}, "2", "8Gi", "1Gi"),
        ({"resources": {"gpu": {}}}, "4", "32Gi", "1Gi"),
        ({"resources": {"gpu": {"count": 4}}}, "16", "128Gi", "8Gi"),
        ({"engine": {"type": "pagoda"}, "resources": {"gpu": {}}}, "4", "16Gi", None),
        ({"engine": {"type": "pagoda"}, "resources": {"gpu": {"count": 4}}}, "16", "64Gi", "4Gi"),
        ({"resources": {"sharedMemory": "3Gi", "cpu": 2, "memory": "1Gi"}}, "2", "1Gi", "3Gi"),
    ],
)
def test_default_resources(fields, cpu, memory, shared):
    made = pod(**fields)
    (container,) = made["containers"]
    assert container["resources"]["limits"]["cpu"] == cpu
    assert container["resources"]["limits"]["memory"] == memory
    volumes = {v["name"]: v for v in made["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    if shared is None:
        assert "/dev/shm" not in mounts
    else:
        wanted = {"medium": "Memory", "sizeLimit": shared}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == wanted


@pytest.mark.parametrize("kind", ENGINES)
def test_compiled_kernels_outlive_the_container(kind):
    made = pod(engine={"type": kind}, resources={"gpu": {}})
    (container,) = made["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (cache,) = (v["value"] for v in container["env"] if v["name"] == "TRITON_CACHE_DIR")
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    (volume,) = (mounts[str(p)] for p in PurePosixPath(cache).parents if str(p) in mounts)
    (source,) = (v["emptyDir"] for v in made["volumes"] if v["name"] == volume)
    assert "medium" not in source, "on disk, or kernels would take the replica's memory"


@pytest.mark.parametrize("kind", ENGINES)
def test_large_weights_may_take_as_long_as_the_roll_out(kind):
    gpus = {"engine": {"type": kind}, "resources": {"gpu": {"count": 8}}}
    probe = engine(**gpus)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 30 * 60
    probe = engine(rollout={"progressDeadlineSeconds": 7200}, **gpus)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 7200


def test_own_engine_on_cpu_knows_nothing_of_gpus():
    container = engine()
    assert "--tensor-parallel-size" not in container["args"]
    assert "TRITON_CACHE_DIR" not in {variable["name"] for variable in container["env"]}


def test_hub_model_is_fetched_by_a_container_of_its_own():
    model = HUB | {"revision": "v1", "secretRef": {"name": "hub"}}
    made = pod(model=model, engine={"type": "vllm"})
    (fetch,) = made["initContainers"]
    assert fetch["args"][:5] == ["fetch", "--uri", HUB["uri"], "--target", "/models/model"]
    assert flag(fetch, "--revision") == "v1"
    token = {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert {"name": "HF_TOKEN", "valueFrom": token} in fetch["env"]
    (container,) = made["containers"]
    assert flag(container, "--model") == "/models/model"
    assert "HF_TOKEN" not in str(container), "only the download sees the token"
    (volume,) = [v for v in made["volumes"] if v["name"] == "model"]
    assert volume["emptyDir"] == {}
    assert fetch["securityContext"] == container["securityContext"]


def test_download_costs_no_more_than_the_engine():
    made = pod(model=HUB, resources={"gpu": {"count": 2}, "cpu": "3", "memory": "5Gi"})
    (fetch,) = made["initContainers"]
    assert fetch["resources"]["limits"] == {"cpu": "3", "memory": "5Gi"}


def test_drain_delay_is_the_kubelets_where_the_engine_has_none():
    assert "lifecycle" not in engine()
    assert engine(engine={"type": "vllm"})["lifecycle"] == {"preStop": {"sleep": {"seconds": 10}}}


def test_image_by_engine_and_accelerator():
    images = {"vllm": "reg/gpu:1", "vllm-cpu": "reg/cpu:1"}
    assert plan(images=images, engine={"type": "vllm"}).image == "reg/cpu:1"
    assert plan(images=images, resources={"gpu": {}}).image == "reg/gpu:1"
    assert plan(images={"vllm": "reg/one:1"}, engine={"type": "vllm"}).image == "reg/one:1"
    own_on_gpu = {"engine": {"type": "pagoda"}, "resources": {"gpu": {}}}
    images = {"pagoda": "reg/own:1", "pagoda-gpu": "reg/own:1-cuda"}
    assert plan(images=images).image == "reg/own:1"
    assert plan(images=images, **own_on_gpu).image == "reg/own:1-cuda"
    assert plan(**own_on_gpu).image == f"{plan().image}-cuda"


@pytest.mark.parametrize("change", [{"suspend": True}, {"rollout": {"strategy": "Replace"}}])
def test_suspension_and_strategy_do_not_touch_the_pods(change):
    assert plan(**change).choice.revision == plan().choice.revision


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2), ("1e3", 1000), ("4Gi", 4 << 30), ("3k", 3000), ("1E", 10**18)],
)
def test_quantities(text, value):
    assert float(parse_quantity(text)) == value


@given(st.text(max_size=5))
def test_quantity_is_a_number_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        parse_quantity(text)
