"""A bare client: reads `name uid` lines and sends each resource's writes, so many at a time.

`python -m tests.bench.operator.bare CLIENT KUBECONFIG TEMPLATES NAMESPACE CONCURRENCY`; CLIENT is
`aiohttp` or `sdk`. Prints the CPU seconds that it used.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from tests.bench.operator import http, writes


async def main(
    kind: str, kubeconfig: Path, templates: list[writes.Template], namespace: str, concurrency: int
) -> None:
    client = await http.sdk(kubeconfig) if kind == "sdk" else http.Aiohttp(kubeconfig)
    queue: asyncio.Queue[tuple[writes.Template, str, str] | None] = asyncio.Queue()

    async def work() -> None:
        while (item := await queue.get()) is not None:
            template, name, uid = item
            uri, body = template.filled(namespace, name, uid)
            if isinstance(client, http.Sdk):
                answer = await client.send(
                    template.method, uri, json.loads(body), template.content_type
                )
            else:
                answer = await client.send(template.method, uri, body, template.content_type)
            json.loads(answer)

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    print("ready", flush=True)  # the imports are no part of the work
    before = time.process_time()
    while line := await lines.readline():
        name, uid = line.decode().split()
        for template in templates:
            queue.put_nowait((template, name, uid))
    for _ in workers:
        queue.put_nowait(None)
    await asyncio.gather(*workers)
    await client.close()
    print(time.process_time() - before)


if __name__ == "__main__":
    _, client_, kubeconfig_, templates_, namespace_, concurrency_ = sys.argv
    asyncio.run(
        main(
            client_,
            Path(kubeconfig_),
            writes.load(Path(templates_)),
            namespace_,
            int(concurrency_),
        )
    )
