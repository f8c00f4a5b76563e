"""The server's certificates are replaced while it is asked all the time."""

import base64
import itertools
import ssl
import threading
import time

from tests.integration.metrics.conftest import (
    GROUP_PATH,
    NAME,
    StartServer,
    api_service,
    wait_available,
)
from tests.kube import Api, eventually
from tests.watch import Watch

# Two seconds for the aggregator to hear of an authority, and two until the one before expires: a busy
# machine holds each up.
SHORT = {"certificate_seconds": "12", "settle_seconds": "2"}


def held(api: Api) -> dict[str, bytes]:
    secret = api.get("secret", NAME)
    assert secret is not None
    return {k: base64.b64decode(v) for k, v in secret.get("data", {}).items()}


class Bundles(Watch):
    """Follows the Secret by a watch, which shows every state of it."""

    def __init__(self, api: Api):
        self.seen: dict[bytes, set[bytes]] = {}
        """Serving certificate → bundles that were there with it."""
        super().__init__(api, "secret", NAME, line=r"{.data.tls\.crt}|{.data.ca\.crt}")

    def _take(self, line: str) -> None:
        chain, bundle = map(base64.b64decode, line.split("|"))
        self.seen.setdefault(chain, set()).add(bundle)


def test_rotation_without_a_gap(release: Api, server: StartServer) -> None:
    """Two replicas, of which one is asked, over two changes of the certificate."""
    first, second = server(**SHORT), server(**SHORT)
    wait_available(release)
    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            done = release.kubectl("get", "--raw", GROUP_PATH, check=False)
            if done.returncode != 0:
                failures.append(done.stderr)
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Bundles(release) as bundles:
            eventually(lambda: len(bundles.seen) >= 3, timeout=60)
        seen = bundles.seen
    finally:
        stop.set()
        asking.join()
    assert failures == []
    # Each was announced before it was shown: its authority was in a bundle of the one before.
    chains = list(seen)
    for before, after in itertools.pairwise(chains):
        authority = after[after.rindex(b"-----BEGIN") :]
        assert any(authority in bundle for bundle in seen[before])
    found = api_service(release)
    assert found is not None
    eventually(
        lambda: (
            base64.b64decode(api_service(release)["spec"]["caBundle"])  # type: ignore[index]
            == held(release)["ca.crt"]
        )
    )
    # The keys of authorities are thrown away.
    assert held(release).keys() <= {"ca.crt", "tls.crt", "tls.key", "next.crt", "next.key"}
    for process in (first, second):
        assert "PRIVATE KEY" not in process.log


def test_two_replicas_agree_on_one_certificate(release: Api, server: StartServer) -> None:
    first, second = server(), server()
    first.wait_ready()
    second.wait_ready()
    assert _shown(first.port) == _shown(second.port)


def test_a_spoilt_secret_is_made_anew(release: Api, server: StartServer) -> None:
    server()
    wait_available(release)
    good = held(release)
    release.patch("secret", NAME, {"data": {"tls.key": base64.b64encode(b"nonsense").decode()}})
    eventually(lambda: held(release)["tls.key"].startswith(b"-----BEGIN PRIVATE KEY"))
    assert held(release)["tls.crt"] != good["tls.crt"]
    # It may take the aggregator a moment to hear of the new authority.
    ask = ("get", "--raw", GROUP_PATH)
    eventually(lambda: release.kubectl(*ask, check=False).returncode == 0)


def _shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port))
