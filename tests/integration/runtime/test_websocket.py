"""Chats over a WebSocket."""

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.runtime.alphabet import ALPHABET
from tests.integration.runtime.conftest import Server, eventually
from tests.integration.runtime.test_api import CHAT, idle


def open_socket(server: Server) -> ClientConnection:
    url = server.url.replace("http", "ws") + "/v1/chat/completions"
    return connect(url, additional_headers={"x-request-id": "mine"})


def ask(socket: ClientConnection, **body: Any) -> list[Any]:
    """Everything up to [DONE] or an error."""
    socket.send(json.dumps({"messages": CHAT} | body))
    return answer(socket)


def answer(socket: ClientConnection) -> list[Any]:
    received: list[Any] = []
    while True:
        text = socket.recv(timeout=60)
        if text == "[DONE]":
            return received
        received.append(json.loads(text))
        if "error" in received[-1]:
            return received


def content(chunks: list[Any]) -> str:
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])


def test_the_same_chunks_as_a_stream(shared: Server) -> None:
    options = {"stream_options": {"include_usage": True}, "max_tokens": 3}
    with open_socket(shared) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "mine"
        chunks = ask(socket, **options)
    stream = shared.post("/v1/chat/completions", messages=CHAT, stream=True, **options).text
    lines = [json.loads(line[6:]) for line in stream.split("\n\n")[:-2]]
    for one in (*chunks, *lines):
        del one["id"], one["created"]
    chunks[-1]["usage"]["prompt_tokens_details"] = lines[-1]["usage"]["prompt_tokens_details"]
    assert chunks == lines


def test_one_after_the_other_and_errors_between(shared: Server) -> None:
    with open_socket(shared) as socket:
        assert content(ask(socket)) == ALPHABET
        assert ask(socket, model="gpt")[-1]["error"]["code"] == "model_not_found"
        assert ask(socket, tools=[{}])[-1]["error"]["param"] == "tools"
        socket.send("{")
        assert "not JSON" in answer(socket)[-1]["error"]["message"]
        for limit in (1, 2):
            socket.send(json.dumps({"messages": CHAT, "max_tokens": limit}).encode())
        assert [content(answer(socket)), content(answer(socket))] == ["a", "ab"]


def test_closing_aborts(shared: Server) -> None:
    aborted = shared.metric("request_success_total", finished_reason="abort")
    generated = shared.metric("generation_tokens_total")
    with open_socket(shared) as socket:
        body = {"messages": CHAT, "n": 2, "max_tokens": 380, "ignore_eos": True}
        socket.send(json.dumps(body))
        socket.recv(timeout=60)
        eventually(lambda: not idle(shared), "it runs")
    eventually(lambda: idle(shared), "blocks free after closing")
    assert shared.metric("generation_tokens_total") - generated < 500, "it would have been 760"
    assert shared.metric("request_success_total", finished_reason="abort") == aborted + 2


def test_who_does_not_wait_for_answers_is_cut_off(shared: Server) -> None:
    def flood(socket: ClientConnection) -> None:
        for _ in range(100):
            socket.send(json.dumps({"messages": CHAT, "max_tokens": 300, "ignore_eos": True}))
        while True:
            socket.recv(timeout=60)

    with open_socket(shared) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            flood(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    eventually(lambda: idle(shared), "blocks free")
