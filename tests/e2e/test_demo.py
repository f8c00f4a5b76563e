"""`make demo` on the tests' cluster: an answer is streamed, and a second run is quick."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dev.cluster import Cluster, down, up
from dev.cluster.processes import records
from dev.cluster.state import names
from dev.demo import run, watch
from dev.demo.console import Console, StuckError
from dev.toy_model import ANSWER

ROOT = Path(__file__).parents[2]


def demo(command: str, cluster: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dev.demo", command, "--cluster", cluster]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.timeout(1800)  # cold caches: images and a model have to be made first
def test_demo_answers_and_can_be_repeated(node_cluster: Cluster) -> None:
    first = demo("up", node_cluster.name)
    assert first.returncode == 0, first.stdout + first.stderr
    assert ANSWER in first.stdout
    assert f"export KUBECONFIG={node_cluster.kubeconfig}" in first.stdout

    begun = time.monotonic()
    again = demo("up", node_cluster.name)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ANSWER in again.stdout
    assert time.monotonic() - begun < 60

    # The operator wrote nothing that keeps the namespace from going.
    node_cluster.kubectl("delete", "namespace", run.NAMESPACE, "--timeout=120s")


def test_a_stuck_demo_says_why(node_cluster: Cluster) -> None:
    with Console() as console, pytest.raises(StuckError, match=r"not ready after 1 s: waiting"):
        console.wait(lambda: (False, "waiting for nothing"), timeout=1)
    # Diagnostics of things that are not there do not fail themselves.
    watch.diagnose(console, node_cluster, "no-such-namespace", "no-such-name")


def test_down_without_a_demo_is_no_error() -> None:
    assert "no-demo" not in names()
    done = demo("down", "no-demo")
    assert done.returncode == 0
    assert "nothing to remove" in done.stdout


def test_down_removes_a_cluster_that_lost_its_processes(request: pytest.FixtureRequest) -> None:
    name = "demo-crashed"
    cluster = up(name)
    request.addfinalizer(lambda: down(name) if name in names() else None)
    for record in records(cluster.state):
        record.identity.kill()
    done = demo("down", name)
    assert done.returncode == 0, done.stderr
    assert name not in names()
