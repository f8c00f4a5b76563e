"""Binaries of the cluster, built from Go modules at the versions pinned in `gomod/`.

They are cached outside the tree, in a folder per module named by everything that determines its
binaries, so that a changed pin builds anew and switching back costs nothing.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.host import require_packages

GOMOD = Path(__file__).parent / "gomod"


@dataclass(frozen=True)
class Component:
    """One binary: the module folder that pins it and the Go package that is its main."""

    module: str
    package: str
    cgo: bool = False
    tags: tuple[str, ...] = ()
    debian_packages: tuple[str, ...] = ()


COMPONENTS = {
    "etcd": Component("kubernetes", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Component("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": Component(
        "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"
    ),
    "kube-scheduler": Component("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubectl": Component("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    "kubelet": Component("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": Component("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    "containerd": Component("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    "containerd-shim-runc-v2": Component(
        "containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
    ),
    "ctr": Component("containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
    "runc": Component(
        "runc",
        "github.com/opencontainers/runc",
        cgo=True,
        tags=("seccomp",),
        debian_packages=("gcc", "libc6-dev", "libseccomp-dev", "pkg-config"),
    ),
    "coredns": Component("coredns", "github.com/coredns/coredns"),
    "pause": Component("pause", "."),
    "helm": Component("helm", "helm.sh/helm/v4/cmd/helm"),
    "kwok": Component("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "contour": Component("contour", "github.com/projectcontour/contour/cmd/contour"),
}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = (
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "coredns",
    "pause",
)


def cache_folder() -> Path:
    """Where built binaries and images are kept: `$PAGODA_CACHE`, else `~/.cache/pagoda`."""
    return Path(os.environ.get("PAGODA_CACHE") or Path.home() / ".cache" / "pagoda")


def pinned_version(module: str, path: str) -> str:
    """The version at which `gomod/<module>/go.mod` requires the Go module `path`."""
    text = (GOMOD / module / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s+{re.escape(path)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise ClusterError(f"gomod/{module}/go.mod does not require {path}")
    return found[1]


def binary(name: str) -> Path:
    """The cached binary `name`, built first if it is missing.

    Raises:
        ClusterError: there is no such component, Go is missing, or the build failed.
    """
    component = COMPONENTS.get(name)
    if component is None:
        raise ClusterError(f"no component {name!r}; there are: {', '.join(COMPONENTS)}")
    path = cache_folder() / "bin" / _cache_key(component.module) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _build_lock(path.parent, name):
            if not path.exists():
                _build(name, component, path)
    return path


def build(names: tuple[str, ...] = ()) -> dict[str, Path]:
    """Build the named components, or all of them; returns where each is."""
    return {name: binary(name) for name in names or tuple(COMPONENTS)}


def _build(name: str, component: Component, target: Path) -> None:
    if shutil.which("go") is None:
        raise ClusterError("`go` is not on the PATH: install Go 1.26 or newer to build the cluster")
    require_packages(component.debian_packages)
    started = time.monotonic()
    _say(f"building {name} (minutes the first time)")
    # The temporary lies beside the target, so that the rename is atomic.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as temporary:
        built = Path(temporary) / name
        done = subprocess.run(
            ["go", "build", *_build_flags(component), "-o", built, component.package],
            cwd=GOMOD / component.module,
            env=os.environ | {"CGO_ENABLED": str(int(component.cgo))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-20:])
            raise ClusterError(f"building {name} failed:\n{tail}")
        built.rename(target)
    _say(f"built {name} in {time.monotonic() - started:.0f} s")


def _build_flags(component: Component) -> list[str]:
    # -buildvcs=false: the binaries are the same whatever commit of this repository builds them.
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s -w", *_stamps(component)])]
    if component.tags:
        flags += ["-tags", ",".join(component.tags)]
    return flags


def _stamps(component: Component) -> list[str]:
    """Linker flags that set the versions which release scripts would set."""
    if component.module == "kubernetes":
        version = pinned_version("kubernetes", "k8s.io/kubernetes")
        major, minor, _ = version.removeprefix("v").split(".")
        values = {
            "gitVersion": version,
            "gitMajor": major,
            "gitMinor": minor,
            "gitTreeState": "clean",
        }
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        return [
            f"-X {package}.{key}={value}" for package in packages for key, value in values.items()
        ]
    if component.module == "containerd":
        path = "github.com/containerd/containerd/v2"
        return [f"-X {path}/version.Version={pinned_version('containerd', path)}"]
    if component.module == "helm":
        path = "helm.sh/helm/v4"
        return [f"-X {path}/internal/version.version={pinned_version('helm', path)}"]
    return []


def _cache_key(module: str) -> str:
    digest = hashlib.sha256()
    folder = GOMOD / module
    for path in sorted([folder / "go.mod", *folder.glob("go.sum"), *folder.glob("*.go")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name, component in COMPONENTS.items():
        if component.module == module:
            digest.update(" ".join([name, component.package, *_build_flags(component)]).encode())
    return digest.hexdigest()


@contextmanager
def _build_lock(folder: Path, name: str) -> Iterator[None]:
    with (folder / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that builds {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
