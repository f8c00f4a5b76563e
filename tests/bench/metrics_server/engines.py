"""Thousands of engines in one process: every address of 127.0.0.0/8, port 8000.

`python -m tests.bench.metrics_server.engines`; several share the port. It runs in a network
namespace of its own, where that port is free on all of them.
"""

import asyncio
import time

from pagoda.engines.base import PORT

from tests.bench.metrics_server.page import WIDTH, template

TOKENS_PER_SECOND = 900.0


class Engine(asyncio.Protocol):
    """Answers every request with its page at once."""

    before, after = template()
    size = len(before) + WIDTH + len(after)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
    start = head.encode() + before

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    def data_received(self, data: bytes) -> None:
        count = time.monotonic() * TOKENS_PER_SECOND
        self._transport.writelines([self.start, f"{count:0{WIDTH}.1f}".encode(), self.after])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Engine, "0.0.0.0", PORT, reuse_port=True, backlog=4096, start_serving=True
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
