"""The node: containerd, kubelet and kube-proxy in namespaces of their own, and cluster DNS."""

import json
import string
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from dev.cluster import addresses, cgroups, controlplane, images, namespaces, network, processes
from dev.cluster.build import NODE, binary, build, pinned_version
from dev.cluster.errors import ClusterError
from dev.cluster.host import cni_plugins, require_packages, require_root
from dev.cluster.pki import Authority
from dev.cluster.state import State

_PACKAGES = ("containernetworking-plugins", "iptables", "iproute2", "procps", "util-linux")
_PAUSE_IMAGE = "localhost/pause:dev"
_MANIFESTS = Path(__file__).parent / "manifests"


def require() -> None:
    """Refuse what cannot work, then build and install what is missing."""
    require_root("a cluster with a node")
    require_packages(_PACKAGES)
    build(NODE)


def node_name(state: State) -> str:
    """The name of the Node object."""
    return f"{state.name}-node"


def holder(state: State) -> int:
    """The pid of the first process of the node.

    Raises:
        ClusterError: the cluster has no node, or it is dead.
    """
    record = processes.record(state.folder, namespaces.HOLDER)
    if record is None or not record.identity.alive:
        raise ClusterError(f"cluster {state.name!r} has no running node (`up --node` makes one)")
    return record.identity.pid


def prepare(state: State) -> None:
    """Make namespaces, network and cgroup, and start the container runtime.

    The control plane listens on the host's end of the link: this comes before it.
    """
    made = namespaces.create(state)
    network.connect(state, made.identity.pid)
    cgroups.create(state.folder)
    _write(state, "containerd.toml", _containerd_config(state))
    _write(state, "cni-conf/pagoda.conflist", json.dumps(_cni_config(), indent=1))
    config = state.folder / "node" / "containerd.toml"
    # The shim asks the runc on the PATH what it can do, whatever is configured.
    path = f"PATH={binary('runc').parent}:{processes.PATH}"
    _start(state, "containerd", ["env", path, binary("containerd"), f"--config={config}"])


def start(state: State) -> None:
    """Start the rest of the node; returns when it is ready and cluster DNS answers.

    Raises:
        ClusterError: something died or was not ready in time; with the end of its log.
    """
    folder = state.folder / "node"
    authority = Authority(state.folder / "pki", "ca")
    authority.issue("kubelet-server", node_name(state), hosts=[addresses.NODE, node_name(state)])
    kubelet = controlplane.kubeconfig(
        state, "kubelet", f"system:node:{node_name(state)}", "system:nodes"
    )
    controlplane.kubeconfig(state, "kube-proxy", "system:kube-proxy")
    _write(state, "resolv.conf", "")
    _write(state, "kubelet.json", json.dumps(_kubelet_config(state), indent=1))
    _write(state, "kube-proxy.json", json.dumps(_kube_proxy_config(state), indent=1))

    socket = Path(f"/proc/{holder(state)}/root/run/containerd/containerd.sock")
    controlplane.wait_until(state, "containerd", "made its socket", socket.is_socket)
    coredns = _load_own_images(state)
    arguments = [
        f"--config={folder}/kubelet.json",
        f"--kubeconfig={kubelet}",
        f"--hostname-override={node_name(state)}",
        f"--node-ip={addresses.NODE}",
    ]
    _start(state, "kubelet", [binary("kubelet"), *arguments])
    _start(state, "kube-proxy", [binary("kube-proxy"), f"--config={folder}/kube-proxy.json"])
    _apply(state, "storage.yaml")
    _apply(
        state,
        "coredns.yaml",
        IMAGE=coredns,
        SERVICE=addresses.DNS_SERVICE,
        DOMAIN=addresses.DNS_DOMAIN,
    )
    with controlplane.api_client(state) as client:
        path = f"/api/v1/nodes/{node_name(state)}"
        controlplane.wait_until(
            state, "kubelet", "the node is ready", lambda: _is_ready(client.get(path).json())
        )
    # Through the Service: that kube-proxy and the pod network work is waited for as well.
    url = f"http://{addresses.DNS_SERVICE}:8181/ready"
    controlplane.wait_until(
        state,
        "kube-proxy",
        f"cluster DNS is ready at {url}",
        lambda: httpx.get(url, timeout=1.0, trust_env=False, verify=False).is_success,
    )


def remove(state: State) -> None:
    """Remove what the node leaves when its processes are dead."""
    network.disconnect(state)
    cgroups.remove(state.folder)
    namespaces.remove_mount_points(state)


def _load_own_images(state: State) -> str:
    """Import the pause and CoreDNS images; returns the name of the latter."""
    version = pinned_version("coredns", "github.com/coredns/coredns")
    coredns = images.Image(
        f"localhost/coredns:{version}", {"coredns": binary("coredns")}, ("/coredns",)
    )
    pause = images.Image(_PAUSE_IMAGE, {"pause": binary("pause")}, ("/pause",))
    for image in (pause, coredns):
        archive = state.folder / "node" / "image.tar"
        images.load(holder(state), images.write_archive(image, archive))
        archive.unlink()
    return coredns.name


def _is_ready(node: dict[str, Any]) -> bool:
    if node.get("kind") != "Node":  # a Status: it has not registered yet
        return False
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _apply(state: State, manifest: str, **values: str) -> None:
    text = string.Template((_MANIFESTS / manifest).read_text()).substitute(values)
    done = subprocess.run(
        [
            binary("kubectl"),
            f"--kubeconfig={state.folder}/kubeconfigs/admin.yaml",
            "apply",
            "--server-side",
            "--filename=-",
        ],
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ClusterError(f"applying {manifest}: {done.stderr}")


def _start(state: State, name: str, command: Sequence[str | Path]) -> None:
    entering = namespaces.entering(holder(state), command)
    processes.start(state.folder, name, entering, enters_namespace=True)


def _write(state: State, name: str, text: str) -> None:
    path = state.folder / "node" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _containerd_config(state: State) -> str:
    """Its own root and sockets, so that a containerd of the host is left alone."""
    root = state.folder / "node" / "containerd"
    return f"""\
version = 3
root = "{root}"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.internal.v1.opt']
  path = "{root}/opt"

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{_PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
  # Where even root may not lower its score (a virtual machine, a container), every sandbox would
  # fail to start.
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{cni_plugins()}"]
  conf_dir = "{state.folder}/node/cni-conf"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  runtime_path = "{binary("containerd-shim-runc-v2")}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{binary("runc")}"
  SystemdCgroup = false
"""


def _cni_config() -> dict[str, object]:
    # Every pod has its own link to the node and everything is routed: unlike with a bridge, traffic
    # between two pods passes the rules of Services without a kernel module (br_netfilter) that
    # would change the host.
    link = {
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": addresses.PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pagoda", "plugins": [link, portmap]}


def _kubelet_config(state: State) -> dict[str, object]:
    pki = state.folder / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [addresses.DNS_SERVICE],
        "clusterDomain": addresses.DNS_DOMAIN,
        "resolvConf": str(state.folder / "node" / "resolv.conf"),
        "cgroupRoot": cgroups.name(state.folder),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # For the control plane and everything else on this host. Processors are not held back:
        # pods may ask for all of the few there are.
        "systemReserved": {"memory": "1Gi"},
        # A developer's disk is full to 90 %: that is no reason to evict, nor to collect images
        # that cannot be pulled again.
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "2%",
            "imagefs.available": "2%",
        },
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
    }


def _kube_proxy_config(state: State) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(state.folder / "kubeconfigs" / "kube-proxy.yaml")},
        "mode": "iptables",
        "clusterCIDR": addresses.PODS,
        "hostnameOverride": node_name(state),
        # The limit of tracked connections is the host's: it is not for us to change.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
    }
