"""Files that grow, and what is left of them."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.fetch.checksum import Checksum
from pagoda.fetch.disk import RECORD, Folder, Origin, Partial
from pagoda.fetch.plan import Plan, RemoteFile

SHA = "a" * 40
ORIGIN = Origin("hf://o/n", "main")


def remote(data: bytes, name: str = "sub/model.safetensors", *, git: bool = False) -> RemoteFile:
    if git:
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        digest = hashlib.sha256(data).hexdigest()
    return RemoteFile(name, len(data), Checksum(digest))


def bring(folder: Path, file: RemoteFile, data: bytes) -> None:
    partial = Partial(folder, file)
    partial.append(data)
    assert partial.is_right()
    partial.finish()
    partial.close()


@given(
    data=st.binary(max_size=300),
    git=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["on", "reopen", "restart"]))),
)
def test_any_sequence_of_parts_and_restarts_ends_in_the_same_bytes(
    tmp_path_factory, data, git, steps
):
    folder = tmp_path_factory.mktemp("part")
    file = remote(data, git=git)
    partial = Partial(folder, file)
    for count, then in [*steps, (len(data), "on")]:
        partial.append(data[partial.offset : partial.offset + count])
        if then == "reopen":
            partial.close()
            partial = Partial(folder, file)
            while partial.left_to_read:
                partial.read_more()
        elif then == "restart":
            partial.restart()
    partial.append(data[partial.offset :] + b"too much")
    assert partial.offset == len(data)
    assert partial.is_right()
    partial.finish()
    partial.close()
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / file.name]
    assert (folder / file.name).read_bytes() == data


def test_wrong_bytes_are_found(tmp_path):
    partial = Partial(tmp_path, remote(b"good"))
    partial.append(b"evil")
    assert not partial.is_right()
    partial.restart()
    partial.append(b"good")
    assert partial.is_right()
    partial.close()


def test_whole_file_is_read_again_before_it_is_believed(tmp_path):
    file = remote(b"good")
    bring(tmp_path, file, b"good")
    (tmp_path / file.name).write_bytes(b"evil")
    partial = Partial(tmp_path, file)
    assert not (tmp_path / file.name).exists()
    partial.read_more()
    assert (partial.offset, partial.is_right()) == (4, False)
    partial.close()


def test_longer_file_is_thrown_away(tmp_path):
    file = remote(b"good")
    bring(tmp_path, file, b"good")
    (tmp_path / file.name).write_bytes(b"longer than that")
    partial = Partial(tmp_path, file)
    assert (partial.offset, partial.left_to_read) == (0, False)
    partial.close()


def test_complete_until_a_file_is_lost_or_something_else_is_asked_for(tmp_path):
    file = remote(b"good")
    plan = Plan(SHA, (file,))
    folder = Folder(tmp_path, ORIGIN)
    assert folder.complete_commit() is None
    folder.prepare(plan)
    bring(tmp_path, file, b"good")
    assert folder.complete_commit() is None
    folder.complete(plan)
    assert folder.complete_commit() == SHA
    assert Folder(tmp_path, Origin("hf://o/n", "v2")).complete_commit() is None
    assert Folder(tmp_path, Origin("hf://o/other", "main")).complete_commit() is None
    (tmp_path / file.name).write_bytes(b"cut")
    assert folder.complete_commit() is None


@pytest.mark.parametrize("record", ["", "[]", "{", '{"complete": true, "files": 7}'])
def test_broken_record_is_none(tmp_path, record):
    (tmp_path / RECORD).write_text(record)
    folder = Folder(tmp_path, ORIGIN)
    assert folder.complete_commit() is None
    folder.prepare(Plan(SHA, ()))


def test_record_cannot_name_files_outside(tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    model = tmp_path / "model"
    model.mkdir()
    (model / RECORD).write_text('{"files": {"../outside.json": 2}}')
    Folder(model, ORIGIN).prepare(Plan(SHA, ()))
    assert outside.exists()


def test_files_of_an_earlier_commit_go_and_strangers_stay(tmp_path):
    old, new = remote(b"old", "old.safetensors"), remote(b"new", "new.safetensors")
    folder = Folder(tmp_path, ORIGIN)
    folder.prepare(Plan(SHA, (old,)))
    bring(tmp_path, old, b"old")
    Partial(tmp_path, remote(b"other", "old.json")).close()
    Partial(tmp_path, new).close()
    (tmp_path / "stranger").write_text("x")
    folder.prepare(Plan("b" * 40, (new,)))
    left = {path.name for path in tmp_path.iterdir()} - {RECORD, "stranger"}
    assert left == {f"new.safetensors.{new.checksum.digest[:12]}.incomplete"}
