"""Puts Pagoda on a development cluster: images, chart, a toy model. The demo and e2e tests use it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dev import images
from dev.cluster import Cluster, ClusterError, binary
from dev.cluster.build import cache_folder

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "pagoda"
RELEASE = "pagoda"
SYSTEM_NAMESPACE = "pagoda-system"
OPERATOR = "pagoda-operator"

# The folder of the model in its volume: the uri is pvc://CLAIM/toy.
MODEL_FOLDER = "toy"

# What the chart writes for a production cluster, and what is different here: nothing but the images.
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def load_images(
    cluster: Cluster, built: Mapping[str, images.Image] | None = None
) -> dict[str, str]:
    """Imports what the cluster has not got; returns target → image name.

    Args:
        cluster: a cluster with a node.
        built: target → image; without it, all images are built where their sources changed.
    """
    built = built or {target: images.make(target) for target in images.TARGETS}
    record = cluster.state / "loaded-images.json"
    loaded: list[str] = json.loads(record.read_text()) if record.exists() else []
    names: dict[str, str] = {}
    for target, image in built.items():
        if image.reference not in loaded:
            cluster.load_image(image.archive)
            loaded.append(image.reference)
            record.write_text(json.dumps(loaded))
        names[target] = image.reference
    return names


def install_chart(
    cluster: Cluster,
    image_names: Mapping[str, str],
    *,
    namespace: str = SYSTEM_NAMESPACE,
    release: str = RELEASE,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Installs or upgrades the chart with images of `load_images`; does not wait for the pods.

    Args:
        cluster: a cluster with a node.
        image_names: what `load_images` returned.
        namespace: where to; made if missing, and made to enforce restricted pod security.
        release: name of the Helm release.
        values: more values of the chart, as in values.yaml.

    Raises:
        ClusterError: Helm failed.
    """
    make_namespace(cluster, namespace)
    ours = {
        "image": _repository_and_tag(image_names["operator"]),
        "engines": {"pagoda": {"image": image_names["runtime"]}},
    }
    command: list[str | Path] = ["upgrade", "--install", release, CHART, f"--namespace={namespace}"]
    helm(cluster, *command, "--values=-", input=json.dumps(_merge(ours, values or {})))


def uninstall_chart(
    cluster: Cluster, *, namespace: str = SYSTEM_NAMESPACE, release: str = RELEASE
) -> None:
    """Removes the release and waits until its objects are gone; the CRD stays."""
    helm(cluster, "uninstall", release, f"--namespace={namespace}", "--wait", "--ignore-not-found")


def helm(cluster: Cluster, *arguments: str | Path, input: str | None = None) -> str:
    """Runs Helm as administrator and returns what it prints.

    Raises:
        ClusterError: it failed.
    """
    # Its own folders: the user's repositories and plugins are none of our business.
    home = cluster.state / "helm"
    own = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [binary("helm"), f"--kubeconfig={cluster.kubeconfig}", *arguments],
        input=input,
        capture_output=True,
        text=True,
        env=os.environ | own,
    )
    if done.returncode != 0:
        raise ClusterError(f"helm {' '.join(map(str, arguments))}:\n{done.stderr.strip()}")
    return done.stdout


def make_namespace(cluster: Cluster, name: str) -> None:
    """Makes a namespace that enforces restricted pod security, if there is none."""
    apply(
        cluster,
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": _RESTRICTED},
        },
    )


def toy_model() -> Path:
    """The folder that holds the toy model's folder; made first where it is not cached."""
    source = Path(__file__).parents[1] / "toy_model.py"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"toy-{key}"
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [sys.executable, "-m", "dev.toy_model", "--out", str(unfinished / MODEL_FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"making the toy model failed:\n{done.stderr[-2000:]}")
    # Engines run as a user of their own and only read.
    for path in (unfinished, *unfinished.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)  # another process was quicker
    return folder


def offer_model(
    cluster: Cluster,
    folder: Path,
    namespace: str,
    claim: str = "models",
    *,
    make_claim: bool = False,
) -> None:
    """Makes a local PersistentVolume of a copy of `folder`, reserved for the claim of that name.

    Args:
        cluster: a cluster with a node, which sees this machine's files.
        folder: holds the model's folder, readable by everybody.
        namespace: of the claim; it exists.
        claim: name of the PersistentVolumeClaim.
        make_claim: make the claim as well, as examples/quickstart.yaml does.
    """
    # The copy lives as long as the cluster and is never written again: a volume's path cannot be
    # changed, and engines have mapped the weights.
    copy = cluster.state / "volumes" / f"{namespace}-{claim}"
    if not copy.exists():
        shutil.copytree(folder, copy)
    offer_folder(cluster, copy, namespace, claim, make_claim=make_claim)


def offer_folder(
    cluster: Cluster, folder: Path, namespace: str, claim: str, *, make_claim: bool = False
) -> None:
    """Makes a local PersistentVolume of `folder` itself; arguments as of `offer_model`."""
    name = f"{namespace}-{claim}"
    phase = ["get", "pv", name, "--ignore-not-found", "--output=jsonpath={.status.phase}"]
    if cluster.kubectl(*phase).stdout in ("Released", "Failed"):
        # It remembers a claim that is gone and would never be bound again.
        cluster.kubectl("delete", "pv", name)
    modes = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": modes,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": namespace,
                "name": claim,
            },
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [_ANY_NODE]}},
        },
    }
    apply(cluster, volume)
    if make_claim:
        spec = {"accessModes": modes[:1], "resources": {"requests": {"storage": "1Gi"}}}
        metadata = {"name": claim, "namespace": namespace}
        kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        apply(cluster, {**kind, "metadata": metadata, "spec": spec})


# A local volume has to name its node; there is one.
_ANY_NODE = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}


def apply(cluster: Cluster, obj: Mapping[str, Any]) -> None:
    """Server-side apply of one object."""
    cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "--filename=-", input=json.dumps(obj)
    )


def _repository_and_tag(image: str) -> dict[str, str]:
    repository, _, tag = image.partition(":")
    return {"repository": repository, "tag": tag}


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`second` over `first`, mappings merged key by key as Helm does with value files."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both and old is not None else value
    return merged
