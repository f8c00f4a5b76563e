"""The demo from beginning to end. Every step can be repeated: a demo that runs is brought up to date."""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dev import images
from dev.cluster import Cluster, ClusterError, attach, binary
from dev.cluster import up as start_cluster
from dev.demo import chat, install, watch
from dev.demo.console import Console, StuckError

QUICKSTART = install.ROOT / "examples" / "quickstart.yaml"
NAME = "quickstart"
NAMESPACE = "demo"

OPERATOR_SECONDS = 180.0
MODEL_SECONDS = 240.0


def up(console: Console, cluster_name: str) -> None:
    """Set everything up and show an answer.

    Raises:
        StuckError: something does not become ready; diagnostics have been printed.
        ClusterError: the cluster, an image or the chart failed.
    """
    cluster, parts = _prepare(console, cluster_name)
    try:
        _install(console, cluster, parts)
        deployment = _serve(console, cluster)
        console.show()
        console.show(f"$ kubectl -n {NAMESPACE} get llmdeployments")
        console.show(cluster.kubectl("-n", NAMESPACE, "get", "llmdeployments").stdout.rstrip())
        address = _address(cluster)
        chat.ask(console, address, deployment.model)
    except (StuckError, ClusterError):
        watch.diagnose(console, cluster, NAMESPACE, NAME)
        raise
    _what_next(console, cluster, address, deployment.model)


@dataclass(frozen=True)
class _Parts:
    """What is made outside the cluster."""

    images: dict[str, images.Image]
    model: Path


def _prepare(console: Console, cluster_name: str) -> tuple[Cluster, _Parts]:
    """The cluster, with the images built and the model made beside its start."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        made = pool.submit(_make_parts, console)
        try:
            cluster = attach(cluster_name)
            console.say(f"the cluster {cluster_name} runs already")
        except ClusterError:
            with console.task("cluster (kube-apiserver, kubelet and the rest; built if need be)"):
                cluster = _start_cluster(console, cluster_name)
        # Only now, so that no second Go build competes with that of the cluster.
        binary("helm")
        return cluster, made.result()


def _start_cluster(console: Console, name: str) -> Cluster:
    try:
        return start_cluster(name, node=True)
    except ClusterError as error:
        # The other work is not stopped halfway, and what it makes is cached.
        console.say(f"the cluster did not start, waiting for images and model to end: {error}")
        raise


def _make_parts(console: Console) -> _Parts:
    built = {}
    for target in images.TARGETS:
        with console.task(f"image of the {target}"):
            built[target] = images.make(target)
    with console.task("toy model"):
        return _Parts(built, install.toy_model())


def _install(console: Console, cluster: Cluster, parts: _Parts) -> None:
    with console.task("images into the cluster"):
        names = install.load_images(cluster, parts.images)
    console.say(f"$ helm upgrade --install {install.RELEASE} charts/pagoda")
    install.install_chart(cluster, names)
    console.wait(
        lambda: watch.operator(cluster, install.SYSTEM_NAMESPACE, install.OPERATOR),
        timeout=OPERATOR_SECONDS,
    )
    install.make_namespace(cluster, NAMESPACE)
    install.offer_model(cluster, parts.model, NAMESPACE)


def _serve(console: Console, cluster: Cluster) -> watch.Seen:
    console.say(f"$ kubectl -n {NAMESPACE} apply -f {QUICKSTART.relative_to(install.ROOT)}")
    cluster.kubectl("-n", NAMESPACE, "apply", "-f", QUICKSTART)
    watcher = watch.Deployment(cluster, NAMESPACE, NAME)
    console.wait(watcher.probe, timeout=MODEL_SECONDS)
    if newer := watcher.seen.newer_rendering:
        # The image of a changed runtime: an operator upgrade alone restarts no model.
        patch = json.dumps({"spec": {"rollout": {"rendering": newer}}})
        command = ["-n", NAMESPACE, "patch", "llmdeployment", NAME, "--type=merge", "-p", patch]
        console.say(f"$ kubectl {shlex.join(command)}")
        cluster.kubectl(*command)
        console.wait(watcher.probe, timeout=MODEL_SECONDS)
    return watcher.seen


def _address(cluster: Cluster) -> str:
    """The Service's virtual address: this machine has a route to it, but not the cluster's DNS."""
    path = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}"
    return cluster.kubectl("-n", NAMESPACE, "get", "service", NAME, "-o", path).stdout


def _what_next(console: Console, cluster: Cluster, address: str, model: str) -> None:
    folders = dict.fromkeys(str(binary(name).parent) for name in ("kubectl", "helm"))
    console.show(f"""
The demo runs. To use it, in any shell:

  export KUBECONFIG={cluster.kubeconfig}
  export PATH={":".join(folders)}:$PATH

  kubectl -n {NAMESPACE} get llmdeployments --watch
  kubectl -n {NAMESPACE} describe llmdeployment {NAME}
  kubectl -n {NAMESPACE} scale llmdeployment {NAME} --replicas=2
  {chat.command(address, model)}
  kubectl -n {NAMESPACE} logs deployment/{NAME} --follow
  kubectl -n {install.SYSTEM_NAMESPACE} logs deployment/{install.OPERATOR}
  kubectl -n {NAMESPACE} delete llmdeployment {NAME}
  helm -n {install.SYSTEM_NAMESPACE} uninstall {install.RELEASE}

`make demo` brings it up to date after a change, `make demo-down` removes it.""")
