"""An engine as the metrics server sees it: a page of metrics on one loopback address, port 8000."""

import http.server
import itertools
import os
import threading
import time
from types import TracebackType

from pagoda.engines.base import PORT

_hosts = itertools.count(1)


def address() -> str:
    """A loopback address of this process's own, never given before."""
    pid, number = os.getpid(), next(_hosts)
    return f"127.{100 + pid % 100}.{pid // 100 % 250}.{number}"


class FakeEngine:
    """Answers /metrics in vLLM's words.

    Its counters move by themselves at the rates that are set; gauges stand where they are put.
    """

    def __init__(self) -> None:
        self.address = address()
        self.generation_rate = 0.0  # tokens per second
        self.waiting = 0.0
        self.running = 0.0
        self.kv_cache_usage = 0.0
        self.status = 200
        self.asked = 0
        self._generated = 0.0
        self._finished = 0.0
        self._moved_at = time.monotonic()
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                engine.asked += 1
                body = engine.page().encode()
                self.send_response(engine.status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                if engine.status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer((self.address, PORT), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def restart(self) -> None:
        """Begin to count from zero again, as a crashed engine does."""
        self.page()
        self._generated = self._finished = 0.0

    def page(self) -> str:
        now = time.monotonic()
        tokens = (now - self._moved_at) * self.generation_rate
        self._moved_at = now
        self._generated += tokens
        self._finished += tokens / 100
        model = 'engine="0",model_name="a \\"quoted\\" {name}"'
        return f"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{model}}} {self.running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{model}}} {self.waiting}
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{{{model},reason="capacity"}} 1000.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{model}}} {self.kv_cache_usage}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{model}}} 0.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{model}}} {self._generated}
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{{{model}}} 1.7e+09
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{model},finished_reason="stop"}} {self._finished}
vllm:request_success_total{{{model},finished_reason="length"}} 0.0
# TYPE vllm:admission_rejections_total counter
"""

    def __enter__(self) -> "FakeEngine":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
