"""What arrives, and how it survives bad connections and restarts."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pagoda.fetch.app import Options, main
from pagoda.fetch.download import RetryTimes

from tests.hub import Fault, Hub, Repo
from tests.integration.fetch.conftest import (
    NAME,
    SHARD,
    TOKEN,
    WANTED,
    Fetches,
    content,
    expected,
    write_model,
)
from tests.kube import eventually

SLOW = 60_000  # bytes per second: a piece a second


def ranges(hub: Hub, file: str = SHARD) -> list[int]:
    """Where each request for a file began."""
    starts = [request.headers.get("Range", "bytes=0-") for request in hub.asked(file)]
    return [int(start.removeprefix("bytes=").removesuffix("-")) for start in starts]


def test_brings_what_an_engine_needs_and_nothing_else(hub: Hub, repo: Repo, fetches: Fetches):
    fetch = fetches.run()
    assert content(fetches.target) == expected(repo)
    record = json.loads((fetches.target / ".pagoda-model.json").read_text())
    assert record["complete"]
    assert record["sha"] == repo.sha
    assert all(f"/resolve/{repo.sha}/" in request.path for request in hub.asked("/resolve/"))
    assert {line["file"] for line in fetch.lines("file is whole")} == WANTED


def test_complete_model_needs_no_hub(hub: Hub, repo: Repo, fetches: Fetches):
    fetches.run()
    asked = len(hub.requests)
    fetches.run(env={"HF_TOKEN": "token with spaces"})
    assert len(hub.requests) == asked


def test_damaged_model_is_brought_again(hub: Hub, repo: Repo, fetches: Fetches):
    fetches.run()
    (fetches.target / "config.json").unlink()
    hub.requests.clear()
    fetches.run()
    assert content(fetches.target) == expected(repo)
    assert ranges(hub) == []  # what is there and right is not asked for


def test_revision_is_pinned_and_quoted(hub: Hub, repo: Repo, fetches: Fetches):
    repo.revisions.add("refs/pr/1")
    fetches.run(revision="refs/pr/1")
    assert hub.asked("/revision/refs%2Fpr%2F1?")


def test_dropped_connection_goes_on_where_it_was(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(drop_after=100_000), Fault(end_after=50_000))
    fetches.run()
    assert content(fetches.target) == expected(repo)
    first, second, third = ranges(hub)
    assert first == 0
    # What had arrived but had not been read yet is lost with its connection.
    assert 0 < second <= 100_000
    assert second < third <= second + 50_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_goes_on_where_it_was(hub: Hub, repo: Repo, fetches: Fetches, number):
    repo.fault(SHARD, Fault(drop_after=200_000), Fault(stall=True))
    first = fetches.start()
    eventually(lambda: len(ranges(hub)) == 2, what="the second try")
    first.wait_progress(files_done=len(WANTED) - 1)
    first.end(number)
    assert not (fetches.target / SHARD).exists()
    (part,) = fetches.target.glob(f"{SHARD}.*")
    size = part.stat().st_size
    assert size > 0
    hub.requests.clear()
    second = fetches.run()
    assert content(fetches.target) == expected(repo)
    assert ranges(hub) == [size]
    assert hub.asked("/resolve/") == hub.asked(SHARD), "whole files are not brought again"
    assert second.lines("model is complete")


def test_sigterm_ends_promptly_and_says_nothing(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(stall=True))
    fetch = fetches.start()
    eventually(lambda: hub.asked(SHARD), what="the request that stalls")
    fetch.process.terminate()
    assert fetch.wait() == 143
    assert fetch.lines("stopped; what is on the disk stays")
    assert not fetch.termination_log.exists()


def test_part_of_another_commit_is_not_continued(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(drop_after=200_000), Fault(stall=True))
    first = fetches.start()
    eventually(lambda: len(ranges(hub)) == 2, what="the second try")
    first.end(signal.SIGKILL)
    # The next commit has one file of weights only.
    (repo.folder / SHARD).unlink()
    (repo.folder / "model-00002-of-00002.safetensors").rename(repo.folder / "model.safetensors")
    fetches.run()
    assert set(content(fetches.target)) == WANTED - {
        SHARD,
        "model-00002-of-00002.safetensors",
    } | {"model.safetensors"}
    assert not list(fetches.target.rglob("*.incomplete"))


def test_stalled_connection_is_opened_anew(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(stall=True))
    fetches.run(read_seconds="0.5")
    assert content(fetches.target) == expected(repo)


def test_server_without_ranges(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(drop_after=100_000), Fault(no_range=True))
    fetches.run()
    assert content(fetches.target) == expected(repo)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_errors_are_waited_out(hub: Hub, repo: Repo, fetches: Fetches, status):
    repo.fault("", Fault(status=status))
    repo.fault("config.json", Fault(status=status))
    fetch = fetches.run()
    assert content(fetches.target) == expected(repo)
    assert {line["file"] for line in fetch.lines("trying again")} == {"listing", "config.json"}


def test_retry_after_is_kept(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault("", Fault(status=429, headers={"Retry-After": "30"}))
    fetch = fetches.start(deadline_seconds="60")
    progress = fetch.wait_progress(state="retrying")
    assert progress["detail"] == "127.0.0.1 answers 429"
    # The hub would answer now, and the first delay of our own is 0.05 s: it is not asked for 30 s.
    with pytest.raises(subprocess.TimeoutExpired):
        fetch.process.wait(timeout=1.5)
    assert len(hub.requests) == 1


def test_damaged_answer_is_asked_for_once_more(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(corrupt=True))
    repo.fault("config.json", Fault(corrupt=True))
    repo.fault("tokenizer.json", Fault(longer=True))
    fetches.run()
    assert content(fetches.target) == expected(repo)


def test_damaged_part_on_the_disk_is_replaced(hub: Hub, repo: Repo, fetches: Fetches):
    repo.fault(SHARD, Fault(drop_after=200_000), Fault(stall=True))
    first = fetches.start()
    eventually(lambda: len(ranges(hub)) == 2, what="the second try")
    first.end(signal.SIGKILL)
    (part,) = fetches.target.glob(f"{SHARD}.*")
    with part.open("r+b") as stream:
        stream.write(b"damaged")
    fetches.run()
    assert content(fetches.target) == expected(repo)


def test_progress(hub: Hub, repo: Repo, fetches: Fetches):
    repo.rate = SLOW
    total = sum(map(len, expected(repo).values()))
    fetch = fetches.start(env={"HF_TOKEN": TOKEN})
    hub.tokens.add(TOKEN)
    seen = []

    def grown() -> bool:
        progress = fetch.progress()
        if progress.get("total"):
            seen.append(progress)
        return bool(seen) and seen[-1]["bytes"] > 0 and seen[-1]["files_done"] > 0

    eventually(grown, timeout=30, every=0.02, what="bytes and files")
    assert seen[-1]["state"] == "downloading"
    assert seen[-1]["total"] == total
    assert seen[-1]["files"] == len(WANTED)
    assert TOKEN not in json.dumps(seen)
    repo.rate = None
    assert fetch.wait() == 0


def test_four_files_at_a_time(hub: Hub, tmp_path: Path, fetches: Fetches):
    repo = hub.add(NAME, write_model(tmp_path / "repo"))
    names = [f"part-{i}.safetensors" for i in range(6)]
    for name in names:
        (repo.folder / name).write_bytes(b"x" * 1000)
        repo.fault(name, Fault(stall=True))
    fetch = fetches.start(read_seconds="60")
    fetch.wait_progress(files_done=len(WANTED))
    eventually(lambda: len(hub.asked("part-")) >= 4, what="four open requests")
    assert len(hub.asked("part-")) == 4


def test_token_stays_with_the_hub(tmp_path: Path):
    with Hub(cdn=True) as hub:
        repo = hub.add(NAME, write_model(tmp_path / "repo"), gated=True, allowed={TOKEN})
        repo.fault(SHARD, Fault(drop_after=100_000), Fault(status=403, at_cdn=True))
        fetches = Fetches(tmp_path / "model", hub)
        try:
            fetches.run(env={"HF_TOKEN": f"{TOKEN}\n"})
        finally:
            fetches.close()
        assert content(fetches.target) == expected(repo)
        cdn = hub.asked("/cdn/")
        assert len(cdn) == len(WANTED) - 1 + 2  # the empty file is not asked for
        assert not any("Authorization" in request.headers for request in cdn)


def test_proxy_of_the_environment(hub: Hub, repo: Repo, fetches: Fetches):
    # The stand-in takes what proxies are asked as well. Nobody resolves the hub's name here.
    proxy = hub.url.replace("http://", "http://user:hush@")
    fetch = fetches.start(endpoint="http://hub.test", env={"HTTP_PROXY": proxy})
    assert fetch.wait() == 0, fetch.log
    assert content(fetches.target) == expected(repo)
    assert all(request.path.startswith("http://hub.test/") for request in hub.requests)
    assert all("Proxy-Authorization" in request.headers for request in hub.requests)
    assert "hush" not in fetch.log


def test_memory_does_not_grow_with_the_file(hub: Hub, tmp_path: Path, fetches: Fetches):
    repo = hub.add(NAME, tmp_path / "repo")
    repo.folder.mkdir()
    with (repo.folder / "model.safetensors").open("wb") as stream:
        stream.truncate(128 << 20)
    (repo.folder / "model_last.safetensors").write_bytes(b"x")
    repo.fault("model_last.safetensors", Fault(stall=True))
    fetch = fetches.start(read_seconds="60")
    fetch.wait_progress(files_done=1)
    # Not wait4's ru_maxrss: that begins with the size of the process that forked.
    status = Path(f"/proc/{fetch.process.pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) < 100 << 10  # more than half of it is Python with its modules


def run_here(hub: Hub, target: Path) -> int:
    """The same as the process, in this one: a start of Python for each example would take minutes."""
    options = Options(
        uri=f"hf://{NAME}",
        revision="main",
        target=target,
        endpoint=hub.url,
        token=None,
        progress_port=0,
        termination_log=None,
        parallel=2,
        read_seconds=5,
        retry=RetryTimes(base=0.001, cap=0.001, deadline=10),
    )
    # No proxies, and no certificates, which take longer to load than the model.
    with patch.dict(os.environ, {"SSL_CERT_FILE": os.devnull}, clear=True):
        return main(options)


sizes = st.integers(0, 60_000)
faults = st.one_of(
    st.builds(Fault, drop_after=sizes, no_range=st.booleans()),
    st.builds(Fault, end_after=sizes),
    st.builds(Fault, status=st.sampled_from([429, 500, 503])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_sequence_of_faults_ends_in_the_same_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("faults")
    repo_folder = write_model(folder / "repo", shard_bytes=50_000)
    with Hub() as hub:
        repo = hub.add(NAME, repo_folder)
        for name in (SHARD, "tokenizer.json", ""):
            repo.fault(name, *data.draw(st.lists(faults, max_size=6), label=name or "listing"))
        assert run_here(hub, folder / "model") == 0
        assert content(folder / "model") == expected(repo)
