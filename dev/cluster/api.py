"""Start, find and stop clusters: what tests, the demo and the command line use."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx

from dev.cluster import controlplane, images, kwok, processes
from dev.cluster import node as node_
from dev.cluster import state as states
from dev.cluster.build import CONTROL_PLANE, binary, build
from dev.cluster.errors import ClusterError
from dev.cluster.host import require_linux
from dev.cluster.state import State


class Cluster:
    """A handle of a running cluster; leaving it as a context manager takes the cluster down."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def name(self) -> str:
        """The name given to `up`."""
        return self._state.name

    @property
    def state(self) -> Path:
        """The state folder; logs are in its `logs/`."""
        return self._state.folder

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, complete in one file."""
        return self.state / "kubeconfigs" / "admin.yaml"

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return controlplane.server(self._state)

    @property
    def ca(self) -> Path:
        """The certificate authority that signed the API server's certificate."""
        return controlplane.ca(self._state)

    @property
    def audit_log(self) -> Path:
        """One JSON line for every finished write request, whoever sent it."""
        return self.state / "audit.log"

    def http(self) -> httpx.Client:
        """A client for the API server as administrator, to be closed by the caller."""
        return controlplane.api_client(self._state)

    def kubectl(
        self, *args: str | Path, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator.

        Raises:
            ClusterError: it failed and `check` is set; with what it wrote to stderr.
        """
        done = subprocess.run(
            [binary("kubectl"), f"--kubeconfig={self.kubeconfig}", *args],
            input=input,
            capture_output=True,
            text=True,
        )
        if check and done.returncode != 0:
            command = " ".join(map(str, args))
            raise ClusterError(f"kubectl {command}: exit {done.returncode}\n{done.stderr}")
        return done

    def load_image(self, archive: Path) -> list[str]:
        """Import an OCI or docker archive; returns the names that pods can use for its images.

        Raises:
            ClusterError: the cluster has no node, or the archive is not one.
        """
        return images.load(node_.holder(self._state), archive)

    def tag_image(self, name: str, other: str) -> None:
        """Give an image of the node one more name.

        Raises:
            ClusterError: the cluster has no node, or the node no such image.
        """
        images.tag(node_.holder(self._state), name, other)

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user, authenticated by a client certificate.

        `system:serviceaccount:NAMESPACE:NAME` gives what is bound to that service account.
        """
        digest = hashlib.sha256("\0".join([user, *groups]).encode()).hexdigest()[:8]
        name = f"{re.sub(r'[^a-zA-Z0-9.-]', '-', user)}-{digest}"
        return controlplane.kubeconfig(self._state, name, user, *groups)

    def start_kwok(self, *, ready_seconds: float = 0.5, drain_seconds: float = 0.5) -> None:
        """Play the kubelet of the nodes that `add_fake_node` makes.

        Args:
            ready_seconds: from the assignment of a pod to its readiness.
            drain_seconds: from the deletion of a pod to its end.
        """
        kubeconfig = str(self.kubeconfig)
        kwok.launch(
            self._state, kubeconfig, ready_seconds=ready_seconds, drain_seconds=drain_seconds
        )

    def add_fake_node(
        self, name: str, *, room: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Make a node without a machine; returns when it is ready.

        Args:
            name: of the node.
            room: allocatable resources, such as {"nvidia.com/gpu": "8"}.
            labels: of the node.

        Raises:
            ClusterError: it did not become ready.
        """
        node = kwok.fake_node(name, room=room, labels=labels or {})
        self.kubectl("create", "-f", "-", input=json.dumps(node))
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=30s")

    def stop_component(self, name: str) -> None:
        """Stop one process of the cluster, such as `kube-apiserver`, and leave it stopped."""
        self._record(name).identity.stop()

    def start_component(self, name: str) -> None:
        """Start a stopped process as it was; a control plane component is ready on return."""
        record = self._record(name)
        processes.start(self.state, name, record.command, enters_namespace=record.enters_namespace)
        if name in controlplane.SERVING:
            controlplane.wait_ready(self._state, name)

    def restart_apiserver(self) -> None:
        """Stop the API server and start it again on the same port; returns when it is ready."""
        self.stop_component("kube-apiserver")
        self.start_component("kube-apiserver")

    def down(self) -> None:
        """Stop the cluster and remove everything it made; nothing happens if it is gone."""
        if self.state.exists():
            down(self.name)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    def _record(self, name: str) -> processes.Record:
        record = processes.record(self.state, name)
        if record is None:
            raise ClusterError(f"cluster {self.name} has no component {name}")
        return record


def up(
    name: str,
    *,
    node: bool = False,
    scheduler: bool | None = None,
    apiserver_args: Sequence[str] = (),
    controller_manager_args: Sequence[str] = (),
) -> Cluster:
    """Build what is missing, start a cluster and wait until it is usable.

    A scheduler runs where there is a node, unless said otherwise. What a crashed cluster of the
    same name left behind is removed first.

    Raises:
        ClusterError: the name is taken, or a component did not come up; what was started for it is
            gone then.
    """
    require_linux()
    states.check_name(name)
    build(CONTROL_PLANE)
    if node:
        node_.require()
    state = State(
        name=name,
        node=node,
        scheduler=node if scheduler is None else scheduler,
        apiserver_args=list(apiserver_args),
        controller_manager_args=list(controller_manager_args),
    )
    with states.lock():
        _refuse_or_clean(name)
        if node:
            _refuse_second_node()
        states.claim(state)
    try:
        controlplane.prepare(state)
        if node:
            node_.prepare(state)
        controlplane.start(state)
        if node:
            node_.start(state)
        state.starter = None
        state.save()
    except BaseException:
        _remove(name)
        raise
    return Cluster(state)


def attach(name: str) -> Cluster:
    """A handle of a cluster that runs.

    Raises:
        ClusterError: there is none of that name, or it is broken.
    """
    state = State.load(name)
    if state is None:
        raise ClusterError(f"no cluster {name!r} runs; there are: {', '.join(states.names())}")
    if not state.healthy:
        raise ClusterError(f"cluster {name!r} is not whole: see `status`; `up` starts it anew")
    return Cluster(state)


def down(name: str) -> None:
    """Stop a cluster and remove everything it made, also what a crash left of it.

    Raises:
        ClusterError: there is no such cluster, or it is just being started.
    """
    states.check_name(name)
    with states.lock():
        state = State.load(name)
        if name not in states.names():
            raise ClusterError(f"no cluster {name!r}")
        _refuse_if_starting(state)
        _remove(name)


def _refuse_or_clean(name: str) -> None:
    state = State.load(name)
    _refuse_if_starting(state)
    if state is not None and state.healthy:
        raise ClusterError(f"a cluster named {name!r} runs already")
    if name in states.names():
        _remove(name)


def _refuse_second_node() -> None:
    """One at a time: they would have the same addresses, and two cores serve one."""
    for name in states.names():
        state = State.load(name)
        if state is None or not state.node:
            continue
        if state.starting or any(processes.marked(state.folder)):
            raise ClusterError(
                f"cluster {name!r} has a node already, and only one node cluster can run: "
                f"`down --name {name}` first"
            )


def _refuse_if_starting(state: State | None) -> None:
    if state is None or state.starter is None or not state.starter.alive:
        return
    if state.starter.pid != os.getpid():  # our own failed attempt is ours to remove
        raise ClusterError(
            f"cluster {state.name!r} is being started by process {state.starter.pid}"
        )


def _remove(name: str) -> None:
    """Undo `up`, however far it came."""
    folder = states.state_root() / name
    # Youngest first. The last one's end, the node's first process, ends every pod.
    for record in reversed(processes.records(folder)):
        record.identity.stop()
    for identity in processes.marked(folder):
        with suppress(TimeoutError):
            identity.kill()
    state = State.load(name)
    if state is not None and state.node:
        node_.remove(state)
    states.remove(folder)
