import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dev.cluster import processes
from dev.cluster.processes import Identity, Record
from tests.kube import eventually


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    for folder in ("run", "logs"):
        (tmp_path / folder).mkdir()
    yield tmp_path
    for identity in processes.marked(tmp_path):
        identity.kill()


def sleeper(state: Path, name: str = "sleeper") -> Record:
    return processes.start(state, name, ["sleep", "1000"])


def test_started_process_is_recorded_and_leads_its_own_session(state: Path) -> None:
    started = sleeper(state)
    assert started.identity.alive
    assert os.getsid(started.identity.pid) == started.identity.pid
    assert processes.record(state, "sleeper") == started
    assert processes.records(state) == [started]


def test_output_goes_to_the_log(state: Path) -> None:
    started = processes.start(state, "talker", ["sh", "-c", "echo out; echo err >&2"])
    assert started.identity.wait(10)
    assert started.tail() == "out\nerr"
    assert started.tail(lines=1) == "err"


def test_stop_ends_it_and_a_second_time_does_nothing(state: Path) -> None:
    started = sleeper(state)
    started.identity.stop()
    assert not started.identity.alive
    started.identity.stop()


def test_stop_kills_what_ignores_the_request(state: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]
    started = processes.start(state, "stubborn", command)
    while started.tail() != "ready":
        assert started.identity.alive
    started.identity.stop(timeout=0.1)
    assert not started.identity.alive


@pytest.mark.parametrize("other", [{"start_time": 1}, {"boot": "another"}])
def test_a_recycled_pid_is_left_alone(state: Path, other: dict[str, object]) -> None:
    """Another process has the recorded pid: one that started at another time or boot."""
    started = sleeper(state)
    recorded = replace(started.identity, **other)
    assert not recorded.alive
    recorded.signal(signal.SIGKILL)
    recorded.stop()
    recorded.kill()
    assert started.identity.alive


def test_identity_of_no_process_is_none() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Identity.of(child) is None  # a zombie
    os.waitpid(child, 0)
    assert Identity.of(child) is None


def test_unrecorded_process_is_found_by_its_mark(state: Path) -> None:
    started = sleeper(state)
    (state / "run" / "sleeper.json").unlink()
    assert processes.records(state) == []
    # Until it has executed its program it bears its parent's marks.
    eventually(lambda: list(processes.marked(state)) == [started.identity])


def test_mark_of_another_folder_does_not_match(state: Path) -> None:
    sleeper(state)
    assert list(processes.marked(state.parent)) == []
    assert list(processes.marked(Path(f"{state}x"))) == []


def test_program_that_enters_a_namespace_is_known_by_its_child(state: Path) -> None:
    command = ["sh", "-c", "sleep 1000; true"]  # the shell waits, as nsenter does
    started = processes.start(state, "inner", command, enters_namespace=True)
    # Between fork and exec it still has the shell's.
    cmdline = Path(f"/proc/{started.identity.pid}/cmdline")
    eventually(lambda: cmdline.read_bytes() == b"sleep\x001000\x00")
