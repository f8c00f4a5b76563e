"""An aggregated API served by the test process, for tests of the development cluster."""

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dev.cluster import Cluster
from dev.cluster.pki import Authority

GROUP_VERSION = "test.pagoda.dev/v1"
NAME = "v1.test.pagoda.dev"


class _Handler(http.server.BaseHTTPRequestHandler):
    """An API group without resources, which tells who asked."""

    def do_GET(self) -> None:
        answer = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": GROUP_VERSION,
            "resources": [],
            "asked_by": self.headers.get("X-Remote-User"),
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(cluster: Cluster, folder: Path, address: str, *hosts: str) -> Iterator[tuple[int, str]]:
    """Serve on `address` with a certificate for `hosts`; yields the port and the CA bundle."""
    authority = Authority.create(folder, "aggregated-ca")
    pair = authority.issue("aggregated", "aggregated", hosts=hosts)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    # Who asks must be the cluster's API server.
    context.load_verify_locations(cluster.state / "pki" / "front-proxy-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer((address, 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        bundle = base64.b64encode(authority.pair.certificate.read_bytes()).decode()
        try:
            yield server.server_address[1], bundle
        finally:
            server.shutdown()
            thread.join()


def registration(namespace: str, service: str, port: int, bundle: str) -> dict[str, Any]:
    """The APIService that sends the group to a Service."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP_VERSION.split("/")[0],
            "version": GROUP_VERSION.split("/")[1],
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": namespace, "name": service, "port": port},
            "caBundle": bundle,
        },
    }


def asked_by(cluster: Cluster) -> str:
    """Wait until the group is available, ask it, and return whom it saw."""
    available = "--for=condition=Available"
    cluster.kubectl("wait", f"apiservice/{NAME}", available, "--timeout=60s")
    answer = json.loads(cluster.kubectl("get", "--raw", f"/apis/{GROUP_VERSION}").stdout)
    return str(answer["asked_by"])
