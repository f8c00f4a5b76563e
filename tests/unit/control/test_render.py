"""Rendering: what a spec becomes, and what it must not depend on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.api.workload import ModelSource
from pagoda.render.effective import SpecError
from pagoda.render.objects import REVISION_LABEL
from pagoda.render.source import model_source

from tests.builders import OWNER, live, live_deployment, only, plan


def container(made):
    return only(made, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def test_smallest_spec_becomes_five_objects_owned_by_it():
    made = plan()
    assert [obj["kind"] for obj in made.objects] == [
        "ServiceAccount",
        "ControllerRevision",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
    ]
    for obj in made.objects:
        (reference,) = obj["metadata"]["ownerReferences"]
        assert reference["uid"] == OWNER.uid
        assert reference["controller"] is True


def test_model_is_mounted_read_only_and_passed_to_the_engine():
    args = container(plan(model={"uri": "pvc://weights/llama/8b", "name": "llama"}))["args"]
    assert args[0] == "serve"
    assert args[args.index("--model") + 1] == "/models/llama/8b"
    assert args[args.index("--served-model-name") + 1] == "llama"


def test_user_args_come_before_ours_and_conflicts_are_known():
    made = plan(engine={"args": ["--max-num-seqs", "4", "--port=1"]})
    args = container(made)["args"]
    assert args.index("--port=1") < args.index("--port")
    assert args[0] == "serve"
    assert made.effective.overridden_args == ["--port=1"]


def test_user_env_replaces_ours_by_name():
    env = container(plan(engine={"env": [{"name": "HOME", "value": "/x"}]}))["env"]
    assert env == [{"name": "HOME", "value": "/x"}]


def test_secret_is_referred_to():
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    env = container(plan(engine={"env": [{"name": "T", "valueFrom": reference}]}))["env"]
    assert env[-1] == {"name": "T", "valueFrom": reference}


def test_pod_is_fit_for_restricted_pod_security():
    made = plan()
    pod = only(made, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container(made)["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_grace_period_covers_delay_drain_and_exit():
    made = plan(rollout={"drainSeconds": 100})
    pod = only(made, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 10 + 100 + 10


def test_zero_drain_is_zero_and_not_the_default():
    args = container(plan(rollout={"drainSeconds": 0}))["args"]
    assert args[args.index("--shutdown-timeout") + 1] == "0"


def test_own_service_account_unless_one_is_named():
    made = plan(serviceAccountName="mine")
    assert "ServiceAccount" not in {obj["kind"] for obj in made.objects}
    pod = only(made, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "mine"


def test_replicas_are_never_part_of_the_deployment():
    made = plan(replicas=7)
    assert "replicas" not in only(made, "Deployment")["spec"]
    assert made.replicas == 7


@pytest.mark.parametrize(
    ("image", "defaults", "expected"),
    [
        (None, {}, "pagoda-runtime:0.1.0"),
        (None, {"pagoda": "reg/x:2"}, "reg/x:2"),
        ("mine:1", {"pagoda": "reg/x:2"}, "mine:1"),
    ],
)
def test_image_user_then_setting_then_table(image, defaults, expected):
    engine = {"image": image} if image else {}
    assert plan(engine=engine, images=defaults).image == expected


@pytest.mark.parametrize("uri", ["pvc://", "hf://", "models", "pvc:///x"])
def test_uri_that_slipped_through_validation(uri):
    with pytest.raises(ValueError, match="pvc://CLAIM/PATH or hf://ORG/NAME"):
        model_source(ModelSource(uri=uri))
    with pytest.raises(SpecError, match="pvc://CLAIM/PATH or hf://ORG/NAME"):
        plan(model={"uri": uri})


def pinned_for(made, **fields):
    """What is kept of an earlier plan, if it is for the same spec."""
    revision = only(made, "ControllerRevision")
    name = only(plan(**fields), "ControllerRevision")["metadata"]["name"]
    return live(revision) if revision["metadata"]["name"] == name else None


def test_new_default_image_restarts_nothing_and_is_offered():
    before = plan(images={"pagoda": "x:1"})
    after = plan(images={"pagoda": "x:2"}, pinned=pinned_for(before))
    assert after.objects[1:3] == before.objects[1:3]
    assert after.image == "x:1"
    fresh = plan(images={"pagoda": "x:2"})
    assert after.choice.available == fresh.choice.revision
    assert before.choice.available is None


@pytest.mark.parametrize(
    "change", [{"replicas": 5}, {"expose": {"service": {"port": 8080}}}, {"rollout": {}}]
)
def test_scaling_after_an_upgrade_restarts_nothing(change):
    before = plan(images={"pagoda": "x:1"})
    after = plan(images={"pagoda": "x:2"}, pinned=pinned_for(before, **change), **change)
    assert after.image == "x:1"


def test_newer_rendering_is_taken_by_naming_it():
    before = plan(images={"pagoda": "x:1"})
    offered = plan(images={"pagoda": "x:2"}, pinned=pinned_for(before)).choice.available
    taken = plan(
        images={"pagoda": "x:2"},
        pinned=pinned_for(before, rollout={"rendering": offered}),
        rollout={"rendering": offered},
    )
    assert taken.image == "x:2"
    assert taken.choice.available is None
    assert taken.choice.revision == offered


def test_lost_revision_is_adopted_from_the_live_template():
    before = plan(images={"pagoda": "x:1"})
    after = plan(images={"pagoda": "x:2"}, deployment=live_deployment(before))
    assert after.image == "x:1"
    assert after.choice.revision == before.choice.revision


def test_spec_change_wins_over_the_pinned_template():
    before = plan(images={"pagoda": "x:1"})
    after = plan(
        images={"pagoda": "x:2"},
        pinned=pinned_for(before, resources={"cpu": "2"}),
        deployment=live_deployment(before),
        resources={"cpu": "2"},
    )
    assert after.image == "x:2"
    assert after.choice.revision != before.choice.revision


OPTIONAL = {
    "replicas": st.integers(0, 5),
    "resources": st.fixed_dictionaries({}, optional={"cpu": st.sampled_from(["1", 2, "500m"])}),
    "engine": st.fixed_dictionaries(
        {}, optional={"args": st.lists(st.sampled_from(["--seed=1", "--port"]), max_size=2)}
    ),
    "rollout": st.fixed_dictionaries({}, optional={"drainSeconds": st.integers(0, 100)}),
    "expose": st.fixed_dictionaries({}, optional={"service": st.just({"port": 8080})}),
    "scheduling": st.fixed_dictionaries({}, optional={"nodeSelector": st.just({"a": "b"})}),
}
SPECS = st.fixed_dictionaries({}, optional=OPTIONAL)


@given(SPECS, SPECS)
def test_history_does_not_matter(first, second):
    """A → B gives what B alone gives, even with A's revision and Deployment still there."""
    before, fresh = plan(**first), plan(**second)
    after = plan(pinned=pinned_for(before, **second), deployment=live_deployment(before), **second)
    strip = [{k: v for k, v in o.items() if k != "revision"} for o in after.objects]
    assert strip == [{k: v for k, v in o.items() if k != "revision"} for o in fresh.objects]


@given(SPECS)
def test_count_and_service_do_not_touch_the_pods(fields):
    base = {k: v for k, v in fields.items() if k not in ("replicas", "expose")}
    revision = plan(**base).choice.revision
    assert plan(**fields).choice.revision == revision
    labels = only(plan(**fields), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels[REVISION_LABEL] == revision
