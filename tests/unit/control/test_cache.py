"""The cache: stale news, re-used names, vanished objects, the index by parent."""

import copy

from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key
from pagoda.kube.resources import DEPLOYMENT, LLMDEPLOYMENT, POD

from tests.builders import OWNER, live, llmd, only, plan, pod

KEY = Key("default", "toy")


def at(obj, version, uid=None):
    obj = copy.deepcopy(obj)
    obj["metadata"]["resourceVersion"] = str(version)
    if uid:
        obj["metadata"]["uid"] = uid
    return obj


def test_old_and_equal_news_are_ignored():
    cache, parent = ObjectCache(), llmd()
    assert cache.absorb("ADDED", at(parent, 5))
    assert not cache.absorb("MODIFIED", at(parent, 4))
    assert not cache.absorb("MODIFIED", at(parent, 5))
    assert not cache.absorb("DELETED", at(parent, 4))
    assert cache.parent(KEY) is not None
    assert cache.absorb("DELETED", at(parent, 6))
    assert cache.parent(KEY) is None


def test_deletion_of_an_earlier_object_of_the_name_is_ignored():
    cache, parent = ObjectCache(), llmd()
    cache.absorb("ADDED", at(parent, 5, uid="new"))
    assert not cache.absorb("DELETED", at(parent, 9, uid="old"))
    assert cache.parent(KEY) is not None


def test_children_are_found_by_parent_and_uid():
    cache, child = ObjectCache(), live(only(plan(), "Deployment"))
    cache.absorb("ADDED", child)
    assert set(cache.owned(KEY, OWNER.uid)) == {(DEPLOYMENT, "toy")}
    assert cache.owned(KEY, "another") == {}
    cache.absorb("DELETED", at(child, 10**9))
    assert cache.owned(KEY, OWNER.uid) == {}


def test_pods_belong_by_label_and_are_projected():
    cache, one = ObjectCache(), pod(revision="r")
    one["metadata"]["managedFields"] = ["big"]
    cache.absorb("ADDED", one)
    (kept,) = cache.pods(KEY)
    assert "managedFields" not in kept["metadata"]
    cache.absorb("DELETED", at(one, 10**9))
    assert cache.pods(KEY) == []


def test_list_drops_what_vanished_but_not_what_came_since():
    cache = ObjectCache()
    cache.absorb("ADDED", at(llmd(name="gone"), 5))
    before = cache.newest(LLMDEPLOYMENT)
    cache.absorb("ADDED", at(llmd(name="young"), 9))
    changed = cache.replace(LLMDEPLOYMENT, [at(llmd(name="other"), 7)], None, before)
    assert sorted(obj["metadata"]["name"] for obj in changed) == ["gone", "other"]
    assert sorted(key.name for key in cache.parents()) == ["other", "young"]


def test_list_of_one_namespace_leaves_the_others_alone():
    cache = ObjectCache()
    cache.absorb("ADDED", at(llmd(name="a", namespace="one"), 5))
    cache.absorb("ADDED", at(llmd(name="b", namespace="two"), 6))
    cache.replace(LLMDEPLOYMENT, [], "one", 99)
    assert [key.namespace for key in cache.parents()] == ["two"]
    cache.replace(POD, [], None, 0)


def test_deleted_object_is_not_brought_back_by_a_late_answer():
    cache, parent = ObjectCache(), llmd()
    cache.absorb("ADDED", at(parent, 5))
    cache.absorb("DELETED", at(parent, 8))
    assert not cache.absorb(None, at(parent, 7))
    assert cache.replace(LLMDEPLOYMENT, [at(parent, 6)], None, 5) == []
    assert cache.parent(KEY) is None
    assert cache.absorb("ADDED", at(parent, 9)), "it has our label again"


def test_former_parent_is_known_until_the_news_is_in():
    cache, child = ObjectCache(), live(only(plan(), "Deployment"))
    cache.absorb("ADDED", child)
    orphan = at(child, 10**9)
    orphan["metadata"]["ownerReferences"] = []
    assert cache.known_parent(orphan) == KEY
    assert cache.absorb("MODIFIED", orphan)
    assert cache.known_parent(orphan) is None
