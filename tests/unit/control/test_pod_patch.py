"""spec.podTemplate: what it makes of the template, and what it may not touch."""

import pytest
from pagoda.render.effective import spec_hash
from pagoda.render.objects import REVISION_LABEL, SELECTOR_LABEL
from pagoda.render.pod_patch import PodTemplateError
from pagoda.render.strategic_merge import PatchError, strategic_merge

from tests.builders import only, plan


def template(patch):
    return only(plan(podTemplate=patch), "Deployment")["spec"]["template"]


def engine(**fields):
    return {"spec": {"containers": [{"name": "engine"} | fields]}}


def test_labels_of_the_user_come_beside_ours_and_make_another_revision():
    plain, labelled = plan(), template({"metadata": {"labels": {"team": "search"}}})
    assert labelled["metadata"]["labels"]["team"] == "search"
    assert labelled["metadata"]["labels"][SELECTOR_LABEL] == "toy"
    assert labelled["metadata"]["labels"][REVISION_LABEL] != plain.choice.revision


@pytest.mark.parametrize("patch", [None, {}, {"spec": {}}])
def test_nothing_is_no_new_revision(patch):
    assert plan(podTemplate=patch).choice.revision == plan().choice.revision


def test_annotations_make_another_revision():
    annotated = plan(podTemplate={"metadata": {"annotations": {"a": "b"}}})
    assert annotated.choice.revision != plan().choice.revision


@pytest.mark.parametrize(
    "patch", [engine(livenessProbe=None), {"spec": {"tolerations": []}}, engine(args=[])]
)
def test_null_and_empty_lists_are_a_change_of_the_spec(patch):
    """Or the kept template of the plain spec would stay in force."""

    def hash_of(patch):
        return spec_hash(plan_spec(podTemplate=patch))

    assert hash_of(patch) != hash_of(None)
    assert hash_of({}) == hash_of(None)


def plan_spec(**fields):
    from pagoda.api.v1alpha1 import LLMDeploymentSpec

    from tests.builders import spec

    return LLMDeploymentSpec.model_validate(spec(**fields))


def test_account_and_grace_period_may_be_changed():
    patch = {"spec": {"serviceAccountName": "mine", "terminationGracePeriodSeconds": 5}}
    assert template(patch)["spec"]["serviceAccountName"] == "mine"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"spec": "x"}, "spec must be a map"),
        ({"spec": None}, "spec must be a map"),
        ({"kind": "Pod"}, "kind does not belong here"),
        ({"metadata": {"name": "x"}}, "metadata.name cannot be set"),
        ({"metadata": {"labels": {"a": 1}}}, "the value of a must be a string"),
        ({"metadata": {"labels": {SELECTOR_LABEL: "other"}}}, "must stay"),
        ({"metadata": {"labels": {SELECTOR_LABEL: None}}}, "must stay"),
        ({"metadata": {"labels": {"$patch": "replace", "a": "b"}}}, "must stay"),
        ({"metadata": {"labels": {REVISION_LABEL: "x"}}}, "is the operator's"),
        ({"spec": {"containers": None}}, "container engine must stay"),
        (engine(**{"$patch": "delete"}), "container engine must stay"),
        (engine(ports=None), "must keep its port http"),
        ({"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy must be Always"),
        ({"spec": {"containers": {"name": "x"}}}, "spec.containers must be a list"),
        ({"spec": {"containers": ["x"]}}, "spec.containers[0] must be a map"),
        ({"spec": {"initContainers": [{"image": "x"}]}}, "spec.initContainers[0].name is missing"),
        ({"spec": {"initContainers": "x"}}, "spec.initContainers must be a list"),
        (engine(env=[{"name": {}}]), "spec.containers[0].env[0].name must be a plain value"),
        (engine(args="x"), "spec.containers[0].args must be a list"),
        (engine(**{"$patch": "merge"}), "$patch must be delete or replace"),
        (engine(**{"$patch": "replace"}), "replaces the whole list"),
        ({"spec": {"$setElementOrder/containers": []}}, "is not supported; use $patch"),
        ({"spec": {"tolerations": [{"$patch": "replace"}]}}, "the list is replaced as a whole"),
    ],
)  # fmt: skip
def test_refused(patch, message):
    with pytest.raises(PodTemplateError) as error:
        template(patch)
    assert message in str(error.value)


def test_deleted_map_is_gone_and_a_replaced_one_appears():
    """Where we differ from kubectl on purpose."""
    assert strategic_merge({"a": {"b": 1}}, {"a": {"$patch": "delete"}}) == {}
    assert strategic_merge({}, {"a": {"$patch": "replace", "b": 1}}) == {"a": {"b": 1}}
    with pytest.raises(PatchError, match="env"):
        strategic_merge({}, {"env": {}} | {"env": "x"})
