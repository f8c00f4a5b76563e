"""Many LLMDeployments created at once: the operator, or a bare client, makes what belongs to them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.operator.measure import AuditTail, cpu_seconds, memory_mib
from tests.bench.operator.setting import USER, Setting, wait_until
from tests.bench.operator.writes import summary
from tests.operator_process import OperatorProcess


@dataclass(frozen=True)
class Storm:
    """One side's result in one round."""

    side: str
    count: int
    seconds: float  # from the first create received to the last write finished
    children_seconds: float  # …to the last child written
    writes: dict[str, int]
    dry_runs: int
    failed: int
    cpu: float  # CPU seconds of the client process
    server_cpu: float  # of the API server
    peak_mib: float | None = None

    @property
    def rate(self) -> float:
        """Resources per second."""
        return self.count / self.seconds


def _load_command(setting: Setting, namespace: str, count: int) -> list[str]:
    module = [sys.executable, "-m", "tests.bench.operator.load"]
    return [*module, str(setting.cluster.kubeconfig), namespace, str(count)]


def operator_storm(
    setting: Setting, operator: OperatorProcess, namespace: str, count: int, per_resource: int
) -> Storm:
    """The operator's side."""
    tail, pid, server = AuditTail(setting.cluster.audit_log), operator.process.pid, _server(setting)
    before, server_before = cpu_seconds(pid), cpu_seconds(server)
    subprocess.run(_load_command(setting, namespace, count), check=True, stdout=subprocess.DEVNULL)

    def all_written() -> bool:
        done = [w for w in tail.read() if w.user == USER and w.namespace == namespace]
        return sum(not w.is_dry_run and w.code < 300 for w in done) >= count * per_resource

    wait_until(all_written, timeout=600, what="every write of the operator")
    used, server_used = cpu_seconds(pid) - before, cpu_seconds(server) - server_before
    operator.settle()
    peak = memory_mib(pid, "VmHWM")
    return _result("operator", count, tail, namespace, used, server_used, peak)


def bare_storm(
    setting: Setting, side: str, namespace: str, count: int, templates: Path, concurrency: int
) -> Storm:
    """A bare client's side: told of every resource as soon as it is created."""
    tail, server = AuditTail(setting.cluster.audit_log), _server(setting)
    command = [sys.executable, "-m", "tests.bench.operator.bare", side, str(setting.kubeconfig)]
    command += [str(templates), namespace, str(concurrency)]
    bare = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert bare.stdin is not None
    assert bare.stdout is not None
    assert bare.stdout.readline() == "ready\n"
    server_before = cpu_seconds(server)
    subprocess.run(_load_command(setting, namespace, count), check=True, stdout=bare.stdin)
    bare.stdin.close()
    used = float(bare.stdout.read())
    assert bare.wait() == 0
    server_used = cpu_seconds(server) - server_before
    return _result(side, count, tail, namespace, used, server_used, None)


def _result(
    side: str,
    count: int,
    tail: AuditTail,
    namespace: str,
    used: float,
    server_used: float,
    peak: float | None,
) -> Storm:
    seen = [w for w in tail.read() if w.namespace == namespace]
    ours = [w for w in seen if w.user == USER]
    done = [w for w in ours if not w.is_dry_run and w.code < 300]
    start = min(w.received for w in seen if w.what == "create llmdeployments")
    children = [w for w in done if "/status" not in w.what and "events" not in w.what]
    return Storm(
        side=side,
        count=count,
        seconds=max(w.finished for w in done) - start,
        children_seconds=max(w.finished for w in children) - start,
        writes=summary(done),
        dry_runs=sum(w.is_dry_run for w in ours),
        failed=sum(w.code >= 300 for w in ours),
        cpu=used,
        server_cpu=server_used,
        peak_mib=peak,
    )


def _server(setting: Setting) -> int:
    return setting.pid("kube-apiserver")
