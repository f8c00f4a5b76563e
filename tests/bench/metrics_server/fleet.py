"""Makes LLMDeployments, Deployments and running pods as fast as the API server takes them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from tests.bench.operator.http import Aiohttp
from tests.integration.metrics.conftest import llmdeployment, workload

Object = dict[str, Any]
AT_A_TIME = 32


def address(number: int) -> str:
    """The loopback address of a pod."""
    return f"127.{10 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


async def create(kubeconfig: Path, namespace: str, count: int, pods: int) -> None:
    """Make `count` LLMDeployments with `pods` pods each, all ready."""
    http = Aiohttp(kubeconfig)
    core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
    ours = f"/apis/serving.pagoda.dev/v1alpha1/namespaces/{namespace}/llmdeployments"

    async def one(number: int) -> None:
        name = f"chat-{number}"
        await http.send("POST", ours, json.dumps(llmdeployment(name)), "application/json")
        deployment = workload(name, pods)
        await http.send("POST", f"{apps}/deployments", json.dumps(deployment), "application/json")
        for index in range(pods):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{index}"}
                | deployment["spec"]["template"]["metadata"],
                "spec": deployment["spec"]["template"]["spec"],
            }
            await http.send("POST", f"{core}/pods", json.dumps(pod), "application/json")
            status = json.dumps({"status": _running(address(number * pods + index))})
            path = f"{core}/pods/{name}-{index}/status"
            await http.send("PATCH", path, status, "application/merge-patch+json")

    try:
        await together(range(count), one)
    finally:
        await http.close()


async def together(items: Iterable[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Do all of them, a bounded number at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))


def _running(ip: str) -> Object:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
