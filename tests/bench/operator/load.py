"""Creates LLMDeployments as fast as it can and prints name and uid of each: both sides' input.

`python -m tests.bench.operator.load KUBECONFIG NAMESPACE COUNT`
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.bench.operator.http import Aiohttp
from tests.builders import manifest

CONCURRENCY = 32
PATH = "/apis/serving.pagoda.dev/v1alpha1/namespaces/{}/llmdeployments?fieldManager=bench"


async def load(kubeconfig: Path, namespace: str, count: int) -> None:
    client = Aiohttp(kubeconfig)
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            body = json.dumps(manifest(f"llm-{number:05d}", namespace))
            answer = await client.send("POST", PATH.format(namespace), body, "application/json")
            metadata = json.loads(answer)["metadata"]
            print(metadata["name"], metadata["uid"], flush=True)

    await asyncio.gather(*(create() for _ in range(CONCURRENCY)))
    await client.close()


if __name__ == "__main__":
    asyncio.run(load(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
