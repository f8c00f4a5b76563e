"""API keys from a file, as Kubernetes mounts it and people edit it."""

import logging
import os
from pathlib import Path

import pytest
from pagoda_runtime.config import ConfigError
from pagoda_runtime.server.auth import ApiKeyGuard, ApiKeys
from starlette.types import Message, Receive, Scope, Send


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(path: Path, content: str, clock: Clock | None = None) -> ApiKeys:
    path.write_text(content)
    return ApiKeys(path, clock or Clock())


def test_one_a_line_comments_and_blanks_aside(tmp_path: Path) -> None:
    known = keys(tmp_path / "keys", "# ours\n\n  first  \r\nsecond # with a hash\n")
    assert known.allow(b"first")
    assert known.allow(b"second # with a hash")
    for wrong in (b"", b"# ours", b"firs", b"first ", b"first\n", b"\xff"):
        assert not known.allow(wrong)


@pytest.mark.parametrize("content", [None, "", "\n# nothing\n"])
def test_no_key_is_a_configuration_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="--api-key-file"):
        ApiKeys(path)


def test_a_secret_s_volume_that_changes(tmp_path: Path) -> None:
    """The kubelet writes a new folder and swaps the symlink `..data`."""
    for name, key in (("v1", "old"), ("v2", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(key)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys").symlink_to("..data/keys")
    clock = Clock()
    known = ApiKeys(tmp_path / "keys", clock)
    (tmp_path / "swap").symlink_to("v2")
    os.rename(tmp_path / "swap", tmp_path / "..data")
    clock.now = 0.5
    assert known.allow(b"old"), "not looked at again yet"
    clock.now = 1.0
    assert known.allow(b"new")
    assert not known.allow(b"old")


def test_what_cannot_be_read_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys", Clock()
    known = keys(path, "mine", clock)
    for broken in ("", None):
        path.write_text(broken) if broken is not None else path.unlink()
        for _ in range(3):
            clock.now += 1
            assert known.allow(b"mine")
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.message for r in errors] == ["API keys not reloaded"] * 2, "each change once"
    path.write_text("other")
    clock.now += 1
    assert known.allow(b"other")
    assert not known.allow(b"mine")


@pytest.mark.parametrize("can_answer", [True, False])
async def test_a_websocket_is_refused_before_it_is_accepted(
    tmp_path: Path, can_answer: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    guard = ApiKeyGuard(app, keys(tmp_path / "keys", "mine"))
    extensions = {"websocket.http.response": {}} if can_answer else {}
    scope = {"type": "websocket", "path": "/v1/chat/completions", "extensions": extensions}
    sent: list[Message] = []
    await guard(scope | {"headers": []}, receive, send)
    if can_answer:
        start, body = sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert (b"www-authenticate", b"Bearer") in start["headers"]
        assert b"invalid_api_key" in body["body"]
    else:
        assert [message["type"] for message in sent] == ["websocket.close"]
    sent.clear()
    await guard(scope | {"headers": [(b"authorization", b"Bearer mine")]}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept"]
