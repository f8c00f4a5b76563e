"""Counting, and telling when nothing gets further."""

import json

from pagoda.fetch.checksum import Checksum
from pagoda.fetch.plan import RemoteFile
from pagoda.fetch.progress import Progress

FILES = [RemoteFile(name, size, Checksum("0" * 64)) for name, size in [("a", 100), ("b", 50)]]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def planned() -> tuple[Progress, Clock]:
    clock = Clock()
    progress = Progress(clock)
    progress.plan(FILES)
    return progress, clock


def test_from_nothing_to_done():
    progress, _ = planned()
    assert progress.document() == {
        "state": "downloading",
        "bytes": 0,
        "total": 150,
        "files_done": 0,
        "files": 2,
        "detail": "",
    }
    progress.tries("a")
    progress.reached("a", 100)
    progress.finished("a")
    progress.reached("b", 20)
    assert progress.document() | {"bytes": 120, "files_done": 1} == progress.document()
    progress.reached("b", 50)
    progress.finished("b")
    assert progress.document()["state"] == "done"
    assert json.loads(json.dumps(progress.document()))["state"] == "done"


def test_state_is_retrying_only_when_no_file_moves():
    progress, _ = planned()
    progress.tries("a")
    progress.waits("b", "the hub answers 503")
    document = progress.document()
    assert (document["state"], document["detail"]) == ("downloading", "the hub answers 503")
    progress.waits("a", "the connection broke")
    assert progress.document()["state"] == "retrying"
    progress.tries("a")
    progress.tries("b")
    assert progress.document()["detail"] == ""


def test_verifying():
    progress, _ = planned()
    progress.verifies("a")
    assert progress.document()["state"] == "verifying"


def test_waiting_for_the_listing_ends_with_the_plan():
    progress = Progress(Clock())
    progress.waits("listing", "down")
    assert progress.document()["state"] == "retrying"
    progress.plan(FILES)
    assert progress.document()["state"] == "downloading"


def test_only_new_bytes_count_as_getting_further():
    progress, clock = planned()
    progress.reached("a", 60)
    clock.now = 10
    progress.reached("a", 0)  # a server without ranges begins anew
    progress.reached("a", 60)
    assert progress.stalled_seconds() == 10
    progress.reached("a", 61)
    assert progress.stalled_seconds() == 0


def test_bytes_that_were_wrong_count_anew():
    progress, clock = planned()
    progress.reached("a", 100)
    clock.now = 10
    progress.starts_over("a")
    assert progress.document()["bytes"] == 0
    clock.now = 20
    progress.reached("a", 1)
    assert progress.stalled_seconds() == 0
