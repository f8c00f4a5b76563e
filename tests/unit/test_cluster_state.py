import os
from pathlib import Path

import pytest

from dev.cluster import state as states
from dev.cluster.errors import ClusterError
from dev.cluster.processes import Identity
from dev.cluster.state import State


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAGODA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def claimed(name: str) -> State:
    state = State(name=name, node=False, scheduler=False)
    with states.lock():
        states.claim(state)
    return state


def test_claimed_state_is_read_back_and_is_being_started_by_us() -> None:
    state = claimed("a")
    assert State.load("a") == state
    assert state.starting
    assert state.starter == Identity.of(os.getpid())
    assert not state.healthy


def test_clusters_have_different_ports() -> None:
    ports = [*claimed("a").ports.values(), *claimed("b").ports.values()]
    assert len(set(ports)) == 10


def test_ports_of_a_removed_cluster_are_free_again() -> None:
    first = claimed("a")
    states.remove(first.folder)
    assert claimed("b").ports == first.ports


def test_starter_that_died_is_starting_nothing() -> None:
    state = claimed("a")
    assert state.starter is not None
    state.starter = Identity(state.starter.pid, start_time=1, boot=state.starter.boot)
    state.save()
    loaded = State.load("a")
    assert loaded is not None
    assert not loaded.starting


def test_last_cluster_takes_the_root_folder_with_it(root: Path) -> None:
    first, second = claimed("a"), claimed("b")
    states.remove(first.folder)
    assert states.names() == ["b"]
    states.remove(second.folder)
    assert not root.exists()
    assert states.names() == []


def test_lock_survives_the_removal_of_the_folder_it_is_on(root: Path) -> None:
    with states.lock():
        root.rmdir()
    with states.lock():
        assert root.exists()


@pytest.mark.parametrize("name", ["a", "a-1", "x" * 32])
def test_names(name: str) -> None:
    states.check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "x" * 33])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="no cluster name"):
        states.check_name(name)
