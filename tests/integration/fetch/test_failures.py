"""What the operator is told when a model cannot be had, and that no secret is in it."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.pki import Authority
from tests.hub import Fault, Hub, Repo, sibling
from tests.integration.fetch.conftest import NAME, SHARD, TOKEN, Fetches, write_model
from tests.pagoda_process import free_port

WRONG = "hf_WrongTokenForTests"


def test_gated_without_a_token(hub: Hub, repo: Repo, fetches: Fetches):
    repo.gated = True
    failure = fetches.start().failure()
    assert failure["reason"] == "ModelAccessDenied"
    assert f"Accept the licence at {hub.url}/{NAME}" in failure["message"]
    assert "spec.model.secretRef" in failure["message"]


def test_gated_and_the_licence_not_accepted(hub: Hub, repo: Repo, fetches: Fetches):
    repo.gated = True
    hub.tokens.add(TOKEN)
    failure = fetches.start(env={"HF_TOKEN": TOKEN}).failure()
    assert failure["reason"] == "ModelAccessDenied"
    assert "the token's account has no access yet" in failure["message"]


def test_gated_and_allowed(hub: Hub, repo: Repo, fetches: Fetches):
    repo.gated = True
    repo.allowed = {TOKEN}
    hub.tokens.add(TOKEN)
    fetches.run(env={"HF_TOKEN": TOKEN})


@pytest.mark.parametrize("private", [False, True])
def test_wrong_token(hub: Hub, repo: Repo, fetches: Fetches, private):
    repo.private = private
    fetch = fetches.start(env={"HF_TOKEN": WRONG})
    failure = fetch.failure()
    assert failure["reason"] == "ModelAccessDenied"
    assert "does not know the token" in failure["message"]
    assert WRONG not in failure["message"] + fetch.log


def test_token_that_is_none(hub: Hub, repo: Repo, fetches: Fetches):
    failure = fetches.start(env={"HF_TOKEN": "hf_two words"}).failure()
    assert failure["reason"] == "ModelAccessDenied"
    assert "characters that no token has" in failure["message"]
    assert not hub.requests


def test_unknown_or_private_without_a_token(hub: Hub, repo: Repo, fetches: Fetches):
    repo.private = True
    failure = fetches.start().failure()
    assert failure["reason"] == "ModelNotFound"
    assert f"has no {NAME}, or it is private" in failure["message"]
    assert "spec.model.secretRef" in failure["message"]


def test_unknown_with_a_good_token(hub: Hub, repo: Repo, fetches: Fetches):
    hub.tokens.add(TOKEN)
    failure = fetches.start(env={"HF_TOKEN": TOKEN}, uri="hf://acme/none").failure()
    assert failure["reason"] == "ModelNotFound"
    assert "acme/none" in failure["message"]


@pytest.mark.parametrize(
    ("whoami", "reason", "words"),
    [
        (401, "ModelAccessDenied", "does not know the token"),
        (200, "ModelNotFound", "the token's account may not read it. "),
        (404, "ModelAccessDenied", "Correct the key HF_TOKEN"),
    ],
)
def test_bare_401_is_settled_by_asking_who_the_token_is(
    hub: Hub, repo: Repo, fetches: Fetches, whoami, reason, words
):
    hub.tokens.add(TOKEN)
    hub.whoami_status = whoami
    repo.fault("", Fault(status=401))
    failure = fetches.start(env={"HF_TOKEN": TOKEN}).failure()
    assert failure["reason"] == reason
    assert words in failure["message"]
    assert len(hub.asked("/api/whoami-v2")) == 1


def test_unknown_revision(hub: Hub, repo: Repo, fetches: Fetches):
    failure = fetches.start(revision="v9").failure()
    assert failure == {
        "reason": "ModelNotFound",
        "message": f"{NAME} has no revision 'v9'. Correct spec.model.revision.",
    }


def test_only_pickles(hub: Hub, repo: Repo, fetches: Fetches):
    for path in repo.folder.glob("*.safetensors"):
        path.unlink()
    failure = fetches.start().failure()
    assert failure["reason"] == "ModelFormatUnsupported"
    assert "only as pickles" in failure["message"]


@pytest.mark.parametrize("name", ["../../../outside.json", "/outside.json", "a/../../b.json"])
def test_name_that_leaves_the_folder(hub: Hub, repo: Repo, fetches: Fetches, name):
    repo.extra_siblings.append(sibling(name, b"x"))
    failure = fetches.start().failure()
    assert failure["reason"] == "FetchFailed"
    assert "could leave the model's folder" in failure["message"]
    assert not fetches.target.exists()


@pytest.mark.parametrize("fault", [Fault(corrupt=True), Fault(longer=True)])
def test_damaged_twice(hub: Hub, repo: Repo, fetches: Fetches, fault):
    repo.fault(SHARD, fault, fault)
    failure = fetches.start().failure()
    assert failure["reason"] == "ChecksumMismatch"
    assert SHARD in failure["message"]
    assert len(hub.asked(SHARD)) == 2
    assert not (fetches.target / SHARD).exists()


def test_hub_that_is_down(hub: Hub, repo: Repo, fetches: Fetches):
    with socket.socket() as bound:  # which refuses connections until it listens
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        failure = fetches.start(endpoint=endpoint, deadline_seconds="1").failure()
    assert failure["reason"] == "HubUnavailable"
    assert endpoint in failure["message"]
    assert "for 1 s" in failure["message"]


def test_hub_that_goes_down_in_the_middle(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(drop_after=100_000), *[Fault(status=503)] * 200)
    failure = fetches.start(deadline_seconds="1").failure()
    assert failure["reason"] == "HubUnavailable"
    assert "answers 503" in failure["message"]
    assert list(fetches.target.glob(f"{SHARD}.*.incomplete")), "the part stays for the next try"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "pki"
    folder.mkdir()
    return Authority.create(folder, "ca")


@pytest.fixture
def tls_hub(authority: Authority, tmp_path: Path) -> Iterator[Hub]:
    pair = authority.issue("hub", "hub", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with Hub(tls=context) as hub:
        hub.add(NAME, write_model(tmp_path / "tls"))
        yield hub


def test_unknown_certificate_is_said_at_once(tls_hub: Hub, fetches: Fetches):
    failure = fetches.start(endpoint=tls_hub.url).failure()
    assert failure["reason"] == "HubUnavailable"
    assert "SSL_CERT_FILE" in failure["message"]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_bundle_of_certificates(tls_hub: Hub, authority: Authority, fetches: Fetches, variable):
    bundle = {variable: str(authority.pair.certificate)}
    fetch = fetches.start(endpoint=tls_hub.url, env=bundle)
    assert fetch.wait() == 0, fetch.log


def test_folder_that_cannot_be_written(hub: Hub, repo: Repo, fetches: Fetches):
    fetches.target.write_text("a file is in the way")
    failure = fetches.start().failure()
    assert failure["reason"] == "FetchFailed"
    assert "folder cannot be used" in failure["message"]


def test_usage(tmp_path: Path):
    command = [sys.executable, "-m", "pagoda", "fetch", f"--target={tmp_path}", "--uri", "hf://one"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'hf://one' is not hf://ORG/NAME" in done.stderr
    command[-1] = f"hf://{NAME}"
    endpoint = os.environ | {"HF_ENDPOINT": "ftp://hub.test"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=endpoint)
    assert done.returncode == 2
    assert "HF_ENDPOINT is not an http(s) address" in done.stderr


# The mount is gone with the process: it is in a mount namespace of its own.
IN_SMALL_DISK = """
mount -t tmpfs -o size={size} tmpfs {folder}
{fill}
{command}
code=$?
df --output=avail -B1 {folder} | tail -1
exit $code
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("when", ["ahead", "in the middle"])
def test_full_disk(hub: Hub, tmp_path: Path, when):
    repo = hub.add(NAME, write_model(tmp_path / "repo", shard_bytes=1 << 20))
    disk = tmp_path / "disk"
    disk.mkdir()
    log = tmp_path / "termination-log"
    command = f"{sys.executable} -m pagoda fetch --uri hf://{NAME} --target {disk}/model"
    command += f" --termination-log {log} --progress-port {free_port()} --retry-seconds 0.05"
    size, fill = "1m", ""
    if when == "in the middle":
        # There is room when the download begins; then another file takes it.
        size = "8m"
        repo.fault(
            SHARD, Fault(drop_after=300_000), Fault(status=503, headers={"Retry-After": "5"})
        )
        fill = (
            f"(until test -s {disk}/model/config.json; do sleep 0.05; done;"
            f" dd if=/dev/zero of={disk}/other bs=64k 2>/dev/null) &"
        )
    script = IN_SMALL_DISK.format(size=size, folder=disk, fill=fill, command=command)
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    failure = json.loads(log.read_text())
    assert failure["reason"] == "DiskFull"
    assert "bytes) are free" in failure["message"]
    assert "are still to come" in failure["message"]
    if when == "ahead":
        assert not hub.asked("/resolve/")
        assert f"({done.stdout.strip()} bytes) are free" in failure["message"]
    else:
        assert hub.asked(SHARD)
        assert "0 bytes (0 bytes) are free" in failure["message"]


def test_no_secret_in_the_fault_of_a_fault(hub: Hub, repo: Repo, fetches: Fetches):
    fetch = fetches.start(
        env={"HF_TOKEN": TOKEN, "SSL_CERT_FILE": "", "CURL_CA_BUNDLE": f"/{TOKEN}"}
    )
    failure = fetch.failure()
    assert failure["reason"] == "FetchFailed"
    assert TOKEN not in failure["message"] + fetch.log
    assert "Traceback" in fetch.log
