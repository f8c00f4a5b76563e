"""The control plane: etcd, kube-apiserver, kube-controller-manager and, if asked for, a scheduler.

Everything listens on one address only: loopback, or the host's end of the link to the node.
"""

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from dev.cluster import addresses, processes
from dev.cluster.build import binary
from dev.cluster.errors import ClusterError
from dev.cluster.pki import Authority, Pair, create_signing_key, write_kubeconfig
from dev.cluster.state import State

# Components with a port that tells whether they are ready.
SERVING = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")

# Every write of everybody, and no read: tests count what the operator wrote.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        },
        {"level": "None"},
    ],
}


def address(state: State) -> str:
    """Where the control plane listens; a node must reach it, so loopback is not enough then."""
    return addresses.HOST if state.node else "127.0.0.1"


def server(state: State) -> str:
    """The URL of the API server."""
    return f"https://{address(state)}:{state.ports['kube-apiserver']}"


def ca(state: State) -> Path:
    """The certificate that signs the API server's."""
    return state.folder / "pki" / "ca.crt"


def kubeconfig(state: State, name: str, user: str, *groups: str) -> Path:
    """A kubeconfig for `user`, with a client certificate of the cluster's authority."""
    authority = Authority(state.folder / "pki", "ca")
    return write_kubeconfig(
        state.folder / "kubeconfigs" / f"{name}.yaml",
        server=server(state),
        ca=authority.pair.certificate,
        client=authority.issue(f"client-{name}", user, organizations=groups),
        name=state.name,
    )


def prepare(state: State) -> None:
    """Write keys, certificates, kubeconfigs and the audit policy."""
    pki = state.folder / "pki"
    hosts = ["127.0.0.1", "localhost", address(state)]
    authority = Authority.create(pki, "ca")
    service_names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    authority.issue(
        "kube-apiserver",
        "kube-apiserver",
        hosts=[*hosts, addresses.KUBERNETES_SERVICE, *service_names],
    )
    authority.issue(
        "kubelet-client", "kube-apiserver-kubelet-client", organizations=["system:masters"]
    )
    authority.issue("kube-controller-manager-server", "kube-controller-manager", hosts=hosts)
    authority.issue("kube-scheduler-server", "kube-scheduler", hosts=hosts)
    # Authorities of their own: who holds a cluster certificate must not reach etcd with it, nor
    # pass for the API server in front of an aggregated one.
    etcd = Authority.create(pki, "etcd-ca")
    etcd.issue("etcd", "etcd", hosts=hosts)
    etcd.issue("etcd-client", "kube-apiserver")
    Authority.create(pki, "front-proxy-ca").issue("front-proxy", "front-proxy")
    create_signing_key(pki, "service-accounts")

    kubeconfig(state, "admin", "admin", "system:masters")
    for component in ("kube-controller-manager", "kube-scheduler"):
        kubeconfig(state, component, f"system:{component}")
    (state.folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))


def start(state: State) -> None:
    """Start everything and return when it serves and a pod could be created.

    Raises:
        ClusterError: a component died or was not ready in time; with the end of its log.
    """
    _start(state, "etcd", _etcd(state))
    # The API server retries until etcd is there, which costs less than to wait in between.
    _start(state, "kube-apiserver", _apiserver(state))
    wait_ready(state, "kube-apiserver")
    _start(state, "kube-controller-manager", _controller_manager(state))
    if state.scheduler:
        _start(state, "kube-scheduler", _scheduler(state))
    for component in ("kube-controller-manager", "kube-scheduler")[: 1 + state.scheduler]:
        wait_ready(state, component)
    # Until this exists the ServiceAccount admission refuses every pod.
    with api_client(state) as client:
        wait_until(
            state,
            "kube-controller-manager",
            "made the service account `default`",
            lambda: client.get("/api/v1/namespaces/default/serviceaccounts/default").is_success,
        )


def api_client(state: State) -> httpx.Client:
    """An HTTP client for the API server, as administrator."""
    return _https_client(state, server(state))


def wait_ready(state: State, component: str) -> None:
    """Wait until a control plane component says that it is ready."""
    path = "/readyz" if component == "kube-apiserver" else "/healthz"
    url = f"https://{address(state)}:{state.ports[component]}"
    with _https_client(state, url) as client:
        wait_until(state, component, "is ready", lambda: client.get(path).is_success)


def wait_until(
    state: State, component: str, what: str, condition: Callable[[], bool], timeout: float = 120.0
) -> None:
    """Wait until `condition` holds; an HTTP error in it means not yet.

    Raises:
        ClusterError: `component` died meanwhile, or time is up; with the end of its log.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        record = processes.record(state.folder, component)
        if record is None or not record.identity.alive:
            raise ClusterError(f"{component} died\n{record.tail() if record else ''}")
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    tail = record.tail() if record else ""
    raise ClusterError(f"{component}: after {timeout:.0f} s still not true: {what}\n{tail}")


def _https_client(state: State, url: str) -> httpx.Client:
    context = ssl.create_default_context(cafile=ca(state))
    admin = _pair(state, "client-admin")
    context.load_cert_chain(admin.certificate, admin.key)
    # An idle connection may lead to a server that was restarted since.
    limits = httpx.Limits(keepalive_expiry=1.0)
    return httpx.Client(base_url=url, verify=context, timeout=5.0, limits=limits, trust_env=False)


def _start(state: State, name: str, arguments: list[str]) -> None:
    processes.start(state.folder, name, [binary(name), *arguments])


def _pair(state: State, name: str) -> Pair:
    pki = state.folder / "pki"
    return Pair(pki / f"{name}.crt", pki / f"{name}.key")


def _etcd(state: State) -> list[str]:
    client = f"https://127.0.0.1:{state.ports['etcd']}"
    peer = f"https://127.0.0.1:{state.ports['etcd-peer']}"
    pair, trusted = _pair(state, "etcd"), _pair(state, "etcd-ca").certificate
    arguments = [
        "--name=etcd",
        f"--data-dir={state.folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=etcd={peer}",
        # A development cluster that loses its data with the power is no loss; fsync is slow.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    for prefix in ("", "peer-"):
        arguments += [
            f"--{prefix}cert-file={pair.certificate}",
            f"--{prefix}key-file={pair.key}",
            f"--{prefix}trusted-ca-file={trusted}",
            f"--{prefix}client-cert-auth",
        ]
    return arguments


def _apiserver(state: State) -> list[str]:
    serving, kubelet = _pair(state, "kube-apiserver"), _pair(state, "kubelet-client")
    etcd, proxy = _pair(state, "etcd-client"), _pair(state, "front-proxy")
    pki = state.folder / "pki"
    arguments = [
        f"--bind-address={address(state)}",
        f"--advertise-address={address(state)}",
        f"--secure-port={state.ports['kube-apiserver']}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={ca(state)}",
        f"--etcd-servers=https://127.0.0.1:{state.ports['etcd']}",
        f"--etcd-cafile={pki}/etcd-ca.crt",
        f"--etcd-certfile={etcd.certificate}",
        f"--etcd-keyfile={etcd.key}",
        f"--service-cluster-ip-range={addresses.SERVICES}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={proxy.certificate}",
        f"--proxy-client-key-file={proxy.key}",
        f"--audit-policy-file={state.folder}/audit-policy.json",
        f"--audit-log-path={state.folder}/audit.log",
        # Never rotated: readers keep their place in one file.
        "--audit-log-maxsize=0",
        # On a loaded machine a pod that waits for its node must not be thrown out at once, and a
        # test of a lost node must not take the default five minutes.
        "--default-not-ready-toleration-seconds=30",
        "--default-unreachable-toleration-seconds=30",
    ]
    if state.node:
        arguments += [
            # Requests to aggregated APIs go to pods, as in most clusters. Without a node they go to
            # the Service, which may then be an ExternalName: a process of this host.
            "--enable-aggregator-routing",
            "--enable-admission-plugins=NodeRestriction",
            # The node's name is in no DNS.
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={ca(state)}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
        ]
    else:
        # Endpoints of the Service `kubernetes` may not be loopback, and nobody is there to use it.
        arguments.append("--endpoint-reconciler-type=none")
    return arguments + state.apiserver_args


def _controller_manager(state: State) -> list[str]:
    authority = _pair(state, "ca")
    return [
        *_client_flags(state, "kube-controller-manager"),
        f"--root-ca-file={authority.certificate}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        f"--service-account-private-key-file={state.folder}/pki/service-accounts.key",
        "--use-service-account-credentials",
        # The default of 20 requests a second lets the Deployment controller make 7 ReplicaSets a
        # second; storms in tests are to be limited by what is tested.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        "--horizontal-pod-autoscaler-sync-period=1s",
        "--horizontal-pod-autoscaler-downscale-stabilization=5s",
        *state.controller_manager_args,
    ]


def _scheduler(state: State) -> list[str]:
    return [
        *_client_flags(state, "kube-scheduler"),
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
    ]


def _client_flags(state: State, name: str) -> list[str]:
    """What controller manager and scheduler have in common."""
    kubeconfig, serving = f"{state.folder}/kubeconfigs/{name}.yaml", _pair(state, f"{name}-server")
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={address(state)}",
        f"--secure-port={state.ports[name]}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        "--leader-elect=false",  # there is one of each, and a Lease costs a write every two seconds
    ]
