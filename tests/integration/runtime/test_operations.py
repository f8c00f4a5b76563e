"""Keys, metrics, logs and traces of a real server, as whoever runs it sees them."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pagoda.autoscaling.scraping.page import Table
from pagoda.engines.pagoda import PROFILE
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.integration.runtime.conftest import Server, eventually

Start = Callable[..., Server]
KEY, OTHER_KEY = "key-of-the-test", "another-key-of-the-test"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Operated:
    """A server with keys, a port for metrics, and a collector of its spans."""

    server: Server
    key_file: Path
    spans: list[Span] = field(default_factory=list)

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}"} | kwargs.pop("headers", {})
        return self.server.http.request(method, self.server.url + path, headers=headers, **kwargs)

    def complete(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        body = {"model": "abc", "prompt": "SECRETPROMPT"} | body
        return self.send("POST", "/v1/completions", json=body, headers=headers or {})

    def metrics(self) -> str:
        port = self.server.wait_log("listening for metrics")["port"]
        return self.server.http.get(f"http://127.0.0.1:{port}/metrics").text


@pytest.fixture(scope="module")
def operated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        """An OTLP/HTTP receiver."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(s for scope in resource.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever).start()
    key_file = tmp_path_factory.mktemp("secret") / "keys"
    key_file.write_text(f"# of the test\n{KEY}\n")
    with pytest.MonkeyPatch.context() as patch:
        host, port = collector.server_address[:2]
        patch.setitem(os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host!s}:{port}")
        patch.setitem(os.environ, "OTEL_BSP_SCHEDULE_DELAY", "100")
        flags = ["--api-key-file", str(key_file), "--metrics-port", "0", "--drain-delay", "0"]
        server = Server(model, *flags, "--metrics-compat", "vllm", "--log-level", "debug")
    yield Operated(server.wait_ready(), key_file, spans)
    server.signal(signal.SIGTERM)
    server.wait_exit()
    server.close()
    collector.shutdown()
    collector.server_close()


def series(page: str, prefix: str) -> dict[str, set[str]]:
    """Label names by sample name, of the metrics with a prefix; fails where the page is not one."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


# --- keys ---------------------------------------------------------------------------------------


def test_everything_but_the_probes_wants_a_key(operated: Operated) -> None:
    server = operated.server
    for path in ("/livez", "/readyz", "/startupz", "/health"):
        assert server.get(path).status_code == 200
    for path in ("/v1/models", "/metrics", "/nothing", "/livez/../v1/models", "/v1/completions"):
        refused = server.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"
    assert operated.send("GET", "/v1/models").status_code == 200
    for value in ("", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \udcff"):
        headers = {"Authorization": value.encode("utf-8", "surrogateescape")}
        refused = server.http.get(server.url + "/v1/models", headers=headers)
        assert refused.status_code == 401, value


def test_a_websocket_wants_a_key_before_it_is_accepted(operated: Operated) -> None:
    url = operated.server.url.replace("http:", "ws:") + "/v1/chat/completions"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["www-authenticate"] == "Bearer"
    assert b"invalid_api_key" in refused.value.response.body
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as client:
        chat = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 2}
        client.send(json.dumps(chat))
        assert "chat.completion.chunk" in str(client.recv(timeout=30))
    eventually(lambda: operated.server.lines("request", status=101), "its line")


def test_keys_are_exchanged_without_a_restart(operated: Operated) -> None:
    def works(key: str) -> bool:
        headers = {"Authorization": f"bearer {key}"}
        return operated.send("GET", "/v1/models", headers=headers).status_code == 200

    operated.key_file.write_text(f"{KEY}\n{OTHER_KEY}\n")
    eventually(lambda: works(OTHER_KEY), "the second key")
    assert works(KEY)
    operated.key_file.write_text(f"{KEY}\n")
    eventually(lambda: not works(OTHER_KEY), "the second key's end")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--api-key", "sk-secret"), "--api-key-file"),
        (("--api-key=sk-secret",), "--api-key-file"),
        (("--api-key-file", "/nonexistent/keys"), "/nonexistent/keys: No such file"),
    ],
)
def test_a_start_without_usable_keys_is_refused(
    start: Start, flags: tuple[str, ...], says: str
) -> None:
    server = start(*flags)
    assert server.wait_exit() != 0
    server.reader.join()
    told = json.dumps(server.logs)
    assert says in told
    assert "sk-secret" not in told
    server.logs.clear()  # argparse does not speak JSON


# --- metrics ------------------------------------------------------------------------------------


def test_every_metric_is_documented(operated: Operated) -> None:
    operated.complete(max_tokens=3)
    page = operated.metrics()
    documented = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
    for family in text_string_to_metric_families(page):
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("pagoda_"):
            assert f"| `{name.removeprefix('pagoda_')}" in documented, name


def test_vllm_s_names_beside_ours(operated: Operated) -> None:
    operated.complete(max_tokens=3)
    page = operated.metrics()
    ours, theirs = series(page, "pagoda_"), series(page, "vllm:")
    assert theirs["vllm:num_requests_running"] == {"model_name", "engine"}
    assert {"vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_bucket"} <= set(
        theirs
    )
    for name, labels in theirs.items():
        assert ours["pagoda_" + name.removeprefix("vllm:")] == labels - {"engine"}
        assert "model_name" in labels
    only_ours = {n for n in ours if "vllm:" + n.removeprefix("pagoda_") not in theirs}
    assert "pagoda_startup_seconds" in only_ours


def test_a_request_is_counted_in_each_metric(operated: Operated) -> None:
    def values() -> dict[str, float]:
        families = text_string_to_metric_families(operated.metrics())
        found = {}
        for sample in (s for f in families for s in f.samples):
            if not sample.name.endswith("_bucket") and "status" not in sample.labels:
                reason = sample.labels.get("finished_reason", "")
                found[sample.name.removeprefix("pagoda_") + reason] = sample.value
        return found

    before = values()
    assert operated.complete(max_tokens=5).status_code == 200
    after = values()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["generation_tokens_total"] == 5
    assert grown["prompt_tokens_total"] == 12
    assert grown["iteration_tokens_total_sum"] == 12 + 5
    assert grown["iteration_tokens_total_count"] == grown["step_seconds_count"] == 5
    assert grown["request_success_totallength"] == 1
    assert grown["inter_token_latency_seconds_count"] == 4
    sums = {"request_prompt_tokens": 12, "request_generation_tokens": 5}
    sums |= {"request_params_max_tokens": 5, "request_params_n": 1}
    sums |= {"request_prefill_kv_computed_tokens": 12, "request_num_preemptions": 0}
    sums |= {"request_max_num_generation_tokens": 5}
    for name, value in sums.items():
        assert (grown[f"{name}_count"], grown[f"{name}_sum"]) == (1, value), name
    parts = [f"request_{part}_time_seconds" for part in ("queue", "prefill", "decode", "inference")]
    for name in ("time_to_first_token", "e2e_request_latency", "request_time_per_output_token"):
        parts.append(f"{name}_seconds")
    for name in parts:
        assert grown[f"{name}_count"] == 1, name
    queue, prefill, decode, inference = (grown[f"{name}_sum"] for name in parts[:4])
    assert prefill + decode == pytest.approx(inference)
    assert queue + prefill == pytest.approx(grown["time_to_first_token_seconds_sum"])
    assert queue + inference <= grown["e2e_request_latency_seconds_sum"]
    assert decode / 4 == pytest.approx(grown["request_time_per_output_token_seconds_sum"])
    assert after["ready"] == 1


def test_prompt_tokens_from_the_cache_are_no_work(operated: Operated) -> None:
    """Of what the operator reads from the page, the demand law takes prompt tokens as work."""
    table = Table(PROFILE.metrics, averaged=frozenset())
    prompt = "x" * 70  # two blocks of 32, and a rest
    work, found = [], []
    for _ in range(2):
        assert operated.complete(prompt=prompt, max_tokens=1).status_code == 200
        page = operated.metrics()
        work.append(table.read(page.encode())["prompt_tokens"])
        samples = {
            (s.name, s.labels.get("source")): s.value
            for family in text_string_to_metric_families(page)
            for s in family.samples
        }
        found.append(samples["pagoda_prompt_tokens_by_source_total", "local_cache_hit"])
        assert samples["pagoda_prompt_tokens_total", None] == work[-1] + found[-1]
        assert samples["pagoda_prompt_tokens_cached_total", None] == found[-1]
        hits = samples["pagoda_prefix_cache_hits_total", None]
        assert samples["pagoda_prompt_tokens_cached_by_source_total", "device"] == hits == found[-1]
    assert (work[1] - work[0], found[1] - found[0]) == (6, 64)


def test_the_start_is_told_by_its_phases(operated: Operated) -> None:
    told = operated.server.get("/startupz").json()
    assert told["phase"] == "done"
    assert told["phases"].keys() == {"engine", "weights", "self_test", "total"}
    parts = sum(seconds for name, seconds in told["phases"].items() if name != "total")
    assert parts <= told["phases"]["total"] + 0.01
    assert told["loaded_bytes"] == told["total_bytes"] > 0
    metric = {
        sample.labels["phase"]: sample.value
        for family in text_string_to_metric_families(operated.metrics())
        for sample in family.samples
        if sample.name == "pagoda_startup_seconds"
    }
    assert metric == pytest.approx(told["phases"], abs=0.001)


# --- logs and traces ----------------------------------------------------------------------------


def test_one_line_per_request_and_no_words_of_the_client(operated: Operated) -> None:
    server = operated.server
    # Long enough for a letter after f: the hexadecimal ids in the log may well hold a shorter one.
    answer = operated.complete(headers={"X-Request-Id": "mine-1"}, max_tokens=8)
    text = answer.json()["choices"][0]["text"]
    assert text == "abcdefgh"
    operated.send("GET", "/v1/models?SECRETPROMPT")
    operated.complete(headers={"Authorization": "Bearer WRONG-KEY"})
    operated.complete(headers={"X-Request-Id": "mine-2"}, n=2, stop=["SECRETPROMPT"])
    eventually(lambda: server.lines("request", request_id="mine-2"), "its line")
    (line,) = server.lines("request", request_id="mine-1")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert line["seconds"] > 0
    (finished,) = server.lines("request finished", request_id="mine-1")
    assert finished["completion_tokens"] == 8
    assert server.lines("request", status=401)
    told = json.dumps(server.logs)
    for secret in ("SECRETPROMPT", text, KEY, "WRONG-KEY"):
        assert secret not in told
    server.get("/livez")
    routine = eventually(lambda: server.lines("request", path="/livez"), "its line")
    assert {line["level"] for line in routine} == {"debug"}


def test_a_request_s_trace_reaches_the_collector(operated: Operated) -> None:
    operated.complete(headers={"traceparent": CALLER}, max_tokens=4, temperature=0.5, seed=7)

    def trace() -> dict[str, Span] | None:
        found = {s.name: s for s in operated.spans if s.trace_id.hex() == CALLER.split("-")[1]}
        return found if len(found) == 4 else None

    spans = eventually(trace, "the spans")
    request = spans["POST /v1/completions"]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert request.parent_span_id.hex() == CALLER.split("-")[2]
    attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in request.attributes}
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.model"] == "abc"
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.usage.input_tokens"] == 12
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert [v.string_value for v in attributes["gen_ai.response.finish_reasons"].values] == [
        "length"
    ]
    assert attributes["http.response.status_code"] == 200
    parts = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(part.parent_span_id == request.span_id for part in parts)
    moments = [request.start_time_unix_nano, parts[0].start_time_unix_nano]
    for part in parts:
        moments += [part.start_time_unix_nano, part.end_time_unix_nano]
    moments.append(request.end_time_unix_nano)
    # Each time is converted from another clock by itself.
    assert all(a <= b + 1_000_000 for a, b in pairwise(moments))
    assert "SECRETPROMPT" not in str(operated.spans)


def test_a_collector_that_does_not_answer_delays_nobody(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setitem(os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setitem(os.environ, "OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        server = start("--drain-delay", "0").wait_ready()
        assert server.complete("a", max_tokens=1).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
