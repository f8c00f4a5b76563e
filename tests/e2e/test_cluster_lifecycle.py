"""A node cluster leaves nothing on the host, also when it or the tool was killed half way.

These start their own cluster, so they are skipped when the run uses one that is up already.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.cluster import Cluster, ClusterError, attach, down, processes, up
from dev.cluster.processes import Identity
from dev.cluster.state import State, names, state_root

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        "PAGODA_E2E_CLUSTER" in os.environ, reason="one node cluster can run, and one does"
    ),
]

NAME = "lifecycle"


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """A failed test must not make the next ones fail."""
    yield
    if NAME in names():
        down(NAME)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def traces() -> dict[str, set[str]]:
    """What a node could leave behind on this host, by kind."""
    # Control planes of other tests and a demo may come and go beside these tests.
    theirs = {state_root(), Path("/var/lib/pagoda-dev")}
    folders = ("/run", "/run/netns", "/var/lib", "/var/lib/kubelet", "/var/log", "/opt", "/etc")
    rules = (line for line in output("iptables-save").splitlines() if not line.startswith("#"))
    return {
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "links": set(output("ip", "-o", "link").splitlines()),
        "addresses": set(output("ip", "-o", "address").splitlines()),
        "routes": set(output("ip", "route").splitlines()),
        "iptables": set(rules),
        "forwarding": {Path("/proc/sys/net/ipv4/ip_forward").read_text()},
        "cgroups": {str(p) for p in Path("/sys/fs/cgroup").glob("**/*pagoda*")},
        "namespaces": network_namespaces(),
        "folders": {str(p) for f in folders for p in Path(f).glob("*") if p not in theirs},
        "states": {NAME} & set(names()),
        "processes": {str(identity.pid) for identity in processes.marked(state_root() / NAME)},
    }


def network_namespaces() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:  # it has just ended
            continue
    return found


def assert_nothing_left(before: dict[str, set[str]]) -> None:
    after = traces()
    left = {kind: after[kind] - before[kind] for kind in before}
    lost = {kind: before[kind] - after[kind] for kind in ("mounts", "links", "routes", "folders")}
    assert not any(left.values()), left
    assert not any(lost.values()), lost


def eventually(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def identity(component: str) -> Identity:
    record = processes.record(state_root() / NAME, component)
    assert record is not None
    return record.identity


def start_in_another_process(until: str) -> subprocess.Popen[bytes]:
    """Run the tool; returns when it has started the component `until`."""
    command = [sys.executable, "-m", "dev.cluster", "up", "--name", NAME, "--node"]
    tool = subprocess.Popen(command)

    def has_started() -> bool:
        assert tool.poll() is None
        return processes.record(state_root() / NAME, until) is not None

    eventually(has_started)
    return tool


def assert_usable(cluster: Cluster) -> None:
    assert "coredns" in cluster.kubectl("get", "pods", "-n", "kube-system").stdout


def test_down_leaves_nothing() -> None:
    before = traces()
    cluster = up(NAME, node=True)
    during = traces()
    for kind in ("links", "routes", "cgroups", "namespaces", "states", "processes"):
        assert during[kind] - before[kind], f"the comparison of {kind} would see nothing"
    with pytest.raises(ClusterError, match="runs already"):
        up(NAME, node=True)
    with pytest.raises(ClusterError, match=f"'{NAME}' has a node already"):
        up("another", node=True)
    cluster.down()
    assert_nothing_left(before)


def test_up_repairs_a_node_whose_kubelet_and_containerd_were_killed() -> None:
    before = traces()
    up(NAME, node=True)
    for component in ("kubelet", "containerd"):
        identity(component).kill()
    with pytest.raises(ClusterError, match="not whole"):
        attach(NAME)
    with up(NAME, node=True) as cluster:
        assert_usable(cluster)
    assert_nothing_left(before)


@pytest.mark.parametrize("component", ["containerd", "kube-apiserver", "kubelet"])
def test_down_removes_what_a_killed_tool_had_started(component: str) -> None:
    before = traces()
    tool = start_in_another_process(until=component)
    with pytest.raises(ClusterError, match=f"being started by process {tool.pid}"):
        down(NAME)
    tool.send_signal(signal.SIGKILL)
    tool.wait()
    down(NAME)
    assert_nothing_left(before)


def test_an_interrupted_up_cleans_up() -> None:
    before = traces()
    tool = start_in_another_process(until="kube-apiserver")
    tool.send_signal(signal.SIGINT)
    assert tool.wait(timeout=60) == 130
    assert_nothing_left(before)


def test_up_after_a_reboot() -> None:
    """Nothing is left but the state folder: every process ended without a word."""
    before = traces()
    up(NAME, node=True)
    for component in (
        "node",
        "kube-apiserver",
        "etcd",
        "kube-controller-manager",
        "kube-scheduler",
    ):
        identity(component).kill()
    with up(NAME, node=True) as cluster:
        assert_usable(cluster)
    assert_nothing_left(before)


def test_failed_up_shows_the_log_and_cleans_up() -> None:
    before = traces()
    with pytest.raises(
        ClusterError, match=r"kube-apiserver died(.|\n)*unknown flag: --no-such-flag"
    ):
        up(NAME, node=True, apiserver_args=["--no-such-flag"])
    assert State.load(NAME) is None
    assert_nothing_left(before)
