"""Comparing live objects with what was applied."""

import pytest
from pagoda.controller.projection import project, restored_lists

WANTED = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {"name": "engine", "args": ["x", "y"], "env": [{"name": "A", "value": "1"}]}
        ],
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}],
    },
}


def edited(**changes):
    live = {
        "metadata": {"labels": {"a": "1", "foreign": "2"}, "uid": "u"},
        "spec": {
            "containers": [
                {"name": "sidecar", "args": []},
                {
                    "name": "engine",
                    "args": ["x", "y"],
                    "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}],
                    "imagePullPolicy": "IfNotPresent",
                },
            ],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 3}],
        },
    }
    live["spec"] |= changes
    return live


def test_what_others_add_is_not_ours():
    assert project(edited(), WANTED) == WANTED


@pytest.mark.parametrize(
    "changes",
    [
        {"containers": []},
        {"containers": [{"name": "engine", "args": ["x"], "env": [{"name": "A", "value": "1"}]}]},
        {
            "containers": [
                {"name": "engine", "args": ["x", "y"], "env": [{"name": "A", "value": "9"}]}
            ]
        },
        {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 9}]},
        {"ports": None},
    ],
)
def test_what_is_ours_shows(changes):
    assert project(edited(**changes), WANTED) != WANTED


def test_lost_key_of_an_item_is_put_back():
    renamed = edited(ports=[{"port": 81, "protocol": "TCP", "targetPort": "http"}])
    assert restored_lists(renamed, WANTED) == {"spec": {"ports": WANTED["spec"]["ports"]}}
    assert restored_lists(edited(), WANTED) is None


def test_keys_added_to_an_atomic_map_are_drift():
    wanted = {"spec": {"selector": {"a": "1"}}}
    assert project({"spec": {"selector": {"a": "1", "b": "2"}}}, wanted) != wanted
