"""The link between this host and the network namespace of the node.

    host                                   node's network namespace
    pagoda0 10.213.0.1 ───── veth ───── eth0 10.213.0.2 ─── kube-proxy ─── veths ─── pods

The host has routes to pods and Services through the link, so tests and the API server reach both.
Pods reach the host and nothing beyond it: no rule is added to the host's firewall and its
forwarding stays as it is.
"""

import socket
import subprocess

from dev.cluster import addresses
from dev.cluster.errors import ClusterError
from dev.cluster.namespaces import enter
from dev.cluster.state import State

_LINK = "pagoda0"


def connect(state: State, node: int) -> None:
    """Join the network namespace of process `node` to the host.

    Raises:
        ClusterError: the host has such a link already, which is not this cluster's.
    """
    if _exists():
        raise ClusterError(
            f"the network link {_LINK} exists: another node cluster runs on this host, with "
            "another state folder"
        )
    # Noted first: a crash in between must not leave it.
    state.linked = True
    state.save()
    _ip("link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", str(node))
    _ip("address", "add", f"{addresses.HOST}/{addresses.LINK_PREFIX}", "dev", _LINK)
    _ip("link", "set", _LINK, "up")
    enter(node, "ip", "link", "set", "lo", "up")
    address = f"{addresses.NODE}/{addresses.LINK_PREFIX}"
    enter(node, "ip", "address", "add", address, "dev", "eth0")
    enter(node, "ip", "link", "set", "eth0", "up")
    enter(node, "ip", "route", "add", "default", "via", addresses.HOST)
    for network in (addresses.PODS, addresses.SERVICES):
        _ip("route", "add", network, "via", addresses.NODE, "dev", _LINK)
    # The namespace's own setting, not the host's.
    enter(node, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")


def disconnect(state: State) -> None:
    """Remove the cluster's link and with it the routes."""
    if state.linked and _exists():
        # The kernel removes it too, some time after the namespace is gone: either may be first.
        subprocess.run(["ip", "link", "delete", "dev", _LINK], capture_output=True)


def _exists() -> bool:
    return _LINK in (name for _, name in socket.if_nameindex())


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
