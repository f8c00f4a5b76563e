"""A real Ingress controller for tests: Contour, with Envoy as its data plane, as two processes.

with contour(cluster, folder, address) as url: requests to `url` go through Envoy
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from dev.cluster import Cluster, binary
from dev.envoy import envoy
from tests.pagoda_process import free_port

CLASS = "contour"
CONTROLLER = "projectcontour.io/ingress-controller"
# What Contour watches besides Ingresses. It does not start without them, and here nobody uses them.
WATCHED = {
    "HTTPProxy": "httpproxies",
    "TLSCertificateDelegation": "tlscertificatedelegations",
    "ExtensionService": "extensionservices",
}


@contextmanager
def contour(cluster: Cluster, folder: Path, address: str) -> Iterator[str]:
    """Run Contour and Envoy; yields the URL at which Envoy takes requests.

    Args:
        cluster: whose Ingresses of the class `contour` are served; pods must be reachable from here.
        folder: for configuration and logs.
        address: the host's address, on which Envoy listens and which Ingresses get as their status.
    """
    prepare(cluster)
    xds, http, health = free_port(), free_port(), free_port()
    config = folder / "contour.yaml"
    config.write_text("{}\n")
    admin = folder / "admin.sock"
    serve = [
        "serve",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--config-path={config}",
        "--xds-address=127.0.0.1",
        f"--xds-port={xds}",
        "--insecure",
        "--disable-leader-election",
        f"--envoy-service-http-address={address}",
        f"--envoy-service-http-port={http}",
        f"--envoy-service-https-port={free_port()}",
        f"--ingress-status-address={address}",
        "--http-address=127.0.0.1",
        f"--http-port={health}",
        "--health-address=127.0.0.1",
        f"--health-port={free_port()}",
        "--stats-address=127.0.0.1",
        f"--stats-port={free_port()}",
        f"--debug-http-port={free_port()}",
    ]
    bootstrap = folder / "envoy.json"
    xds_flags = ["--xds-address=127.0.0.1", f"--xds-port={xds}", f"--admin-address={admin}"]
    subprocess.run([binary("contour"), "bootstrap", *xds_flags, bootstrap], check=True)
    with ExitStack() as stack:
        stack.enter_context(_running([binary("contour"), *serve], folder / "contour.log"))
        command = [envoy(), "--config-path", bootstrap, "--use-dynamic-base-id"]
        command += ["--service-node", "envoy", "--service-cluster", "contour"]
        stack.enter_context(_running([*command, "--concurrency", "1"], folder / "envoy.log"))
        yield f"http://{address}:{http}"


def prepare(cluster: Cluster) -> None:
    """Make the class and the kinds that Contour insists on."""
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": CLASS},
            "spec": {"controller": CONTROLLER},
        },
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "projectcontour"}},
    ]
    objects += [_any_kind(kind, plural) for kind, plural in WATCHED.items()]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(listed))
    names = [f"crd/{plural}.projectcontour.io" for plural in WATCHED.values()]
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=20s")


def reaches(url: str, host: str) -> bool:
    """Tell whether Envoy leads requests for a host to a server that answers."""
    try:
        answer = httpx.get(
            f"{url}/v1/models", headers={"Host": host}, trust_env=False, verify=False, timeout=5
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def _any_kind(kind: str, plural: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = "v1alpha1" if kind == "ExtensionService" else "v1"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.projectcontour.io"},
        "spec": {
            "group": "projectcontour.io",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


@contextmanager
def _running(command: Sequence[str | Path], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, f"{log.name} says:\n{log.read_text()[-2000:]}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
