"""Start, find and stop clusters: what tests, the demo and the command line use."""

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dev.cluster import controlplane, processes
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

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user, authenticated by a client certificate.

        `system:serviceaccount:NAMESPACE:NAME` gives what is bound to that service account.
        """
        digest = hashlib.sha256("\0".join([user, *groups]).encode()).hexdigest()[:8]
        name = f"{re.sub(r'[^a-zA-Z0-9.-]', '-', user)}-{digest}"
        return controlplane.kubeconfig(self._state, name, user, *groups)

    def stop_component(self, name: str) -> None:
        """Stop one process of the cluster, such as `kube-apiserver`, and leave it stopped."""
        self._record(name).identity.stop()

    def start_component(self, name: str) -> None:
        """Start a stopped control plane process as it was; returns when it is ready."""
        processes.start(self.state, name, self._record(name).command)
        if name in controlplane.SERVING:
            controlplane.wait_ready(self._state, name)

    def restart_apiserver(self) -> None:
        """Stop the API server and start it again on the same port; returns when it is ready."""
        self.stop_component("kube-apiserver")
        self.start_component("kube-apiserver")

    def down(self) -> None:
        """Stop the cluster and remove everything it made."""
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
    state = State(
        name=name,
        node=node,
        scheduler=node if scheduler is None else scheduler,
        apiserver_args=list(apiserver_args),
        controller_manager_args=list(controller_manager_args),
    )
    with states.lock():
        _refuse_or_clean(name)
        states.claim(state)
    try:
        controlplane.prepare(state)
        controlplane.start(state)
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


def _refuse_if_starting(state: State | None) -> None:
    if state is not None and state.starting and state.starter is not None:
        if state.starter.pid == os.getpid():
            return
        raise ClusterError(
            f"cluster {state.name!r} is being started by process {state.starter.pid}"
        )


def _remove(name: str) -> None:
    """Undo `up`, however far it came."""
    folder = states.state_root() / name
    # Youngest first, so that nothing logs an error because what it needs is gone.
    for record in reversed(processes.records(folder)):
        record.identity.stop()
    for identity in processes.marked(folder):
        with suppress(TimeoutError):
            identity.kill()
    states.remove(folder)
