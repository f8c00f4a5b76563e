"""With many LLMDeployments at rest: what the operator uses, one more, and a restart."""

import asyncio
import json
import time
from dataclasses import dataclass

from tests.bench.operator.http import Aiohttp
from tests.bench.operator.load import PATH
from tests.bench.operator.measure import AuditTail, cpu_seconds, memory_mib
from tests.bench.operator.setting import USER, Setting
from tests.builders import manifest
from tests.operator_process import OperatorProcess

SELECTOR = "labelSelector=app.kubernetes.io/managed-by%3Dpagoda"
CHILDREN = (
    "/api/v1/namespaces/{}/serviceaccounts",
    "/api/v1/namespaces/{}/services",
    "/apis/apps/v1/namespaces/{}/controllerrevisions",
    "/apis/apps/v1/namespaces/{}/deployments",
    "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
)
STATUS_SECONDS = 30.0


@dataclass(frozen=True)
class Rest:
    """What the operator uses while nothing changes."""

    seconds: float
    writes: int
    cpu_percent: float  # of one core
    rss_mib: float


def at_rest(setting: Setting, operator: OperatorProcess, seconds: float) -> Rest:
    """Watch the operator do nothing."""
    tail, pid = AuditTail(setting.cluster.audit_log), operator.process.pid
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return Rest(
        seconds=passed,
        writes=sum(w.user == USER for w in tail.read()),
        cpu_percent=100 * (cpu_seconds(pid) - before) / passed,
        rss_mib=memory_mib(pid),
    )


async def single_applies(setting: Setting, namespace: str, count: int) -> list[float]:
    """Seconds from the answer to one create until a watcher has seen every child, sorted.

    The next one is created when the status of the last one has been written.
    """
    client = Aiohttp(setting.kubeconfig.with_name("admin.yaml"))
    seen: dict[str, dict[str, float]] = {}
    changed = asyncio.Condition()

    async def watch(path: str) -> None:
        listed = await client.send("GET", f"{path}?{SELECTOR}&limit=1", "", "application/json")
        version = json.loads(listed)["metadata"]["resourceVersion"]
        selector = "" if "llmdeployments" in path else f"&{SELECTOR}"
        uri = f"{path}?watch=true&resourceVersion={version}{selector}"
        async with client.session.get(uri) as stream:
            async for line in stream.content:
                obj = json.loads(line)["object"]
                name = obj["metadata"]["name"]
                if obj["kind"] == "ControllerRevision":
                    name = name.rpartition("-")[0]
                if obj["kind"] == "LLMDeployment" and not obj.get("status"):
                    continue
                async with changed:
                    seen.setdefault(name, {}).setdefault(obj["kind"], time.monotonic())
                    changed.notify_all()

    parents = PATH.format(namespace).partition("?")[0]
    watches = [asyncio.create_task(watch(path.format(namespace))) for path in (*CHILDREN, parents)]
    await asyncio.sleep(1)  # the watches have begun
    times = []
    for number in range(count):
        name = f"single-{number}"
        body = json.dumps(manifest(name, namespace))
        await client.send("POST", PATH.format(namespace), body, "application/json")
        answered = time.monotonic()
        async with changed, asyncio.timeout(STATUS_SECONDS):
            await changed.wait_for(lambda n=name: len(seen.get(n, ())) == len(CHILDREN) + 1)
        moments = [at for kind, at in seen[name].items() if kind != "LLMDeployment"]
        times.append(max(moments) - answered)
    for task in watches:
        task.cancel()
    await client.close()
    return sorted(times)


def restart(setting: Setting) -> tuple[float, int]:
    """Seconds until a fresh operator is primed, and its writes until it has settled."""
    tail, began = AuditTail(setting.cluster.audit_log), time.monotonic()
    with setting.operator() as operator:
        primed = setting.primed_at - began
        operator.settle()
        return primed, sum(w.user == USER for w in tail.read())
