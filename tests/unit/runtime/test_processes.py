"""What each of the two processes loads, and what they say to each other: the API answers probes at
once because it never imports torch.
"""

import itertools
import json
import logging
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda_runtime.engine.request import PoolingParams, SamplingParams
from pagoda_runtime.logs import JsonFormatter
from pagoda_runtime.server import ipc
from pagoda_runtime.server.engine_process import Parent


@pytest.mark.parametrize("module", ["pagoda_runtime.server.lifecycle", "pagoda_runtime.cli"])
def test_the_api_process_imports_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = set(out.stdout.split())
    assert module in loaded
    assert not loaded & {"torch", "transformers", "numpy"}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=0, prompt_logprobs=2, logit_bias=((3, 0.5),)),
        PoolingParams("mean", priority=1, deadline=2.5, cache_salt="tenant"),
    ],
    ids=["sampling", "pooling"],
)
def test_a_request_arrives_as_it_was_sent(params: SamplingParams | PoolingParams) -> None:
    sent = ipc.Submit("id", [1, 2], params, arrival=0.5)
    arrived = ipc.decode_to_engine(ipc.encode(sent))
    assert arrived == sent
    assert isinstance(arrived, ipc.Submit)
    assert type(arrived.params) is type(params)


@given(
    names=st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=5),
    lengths=st.lists(st.integers(0, 9)),
)
def test_messages_arrive_whole_in_whatever_pieces_they_come(
    names: list[list[str]], lengths: list[int]
) -> None:
    sent = [ipc.Abort(ids) for ids in names]
    stream = b"".join(map(ipc.frame, sent))
    cuts = [0, *(cut for cut in itertools.accumulate(lengths) if cut < len(stream)), len(stream)]
    frames, arrived = ipc.Frames(), []
    for begin, end in itertools.pairwise(cuts):
        arrived += map(ipc.decode_to_engine, frames.feed(stream[begin:end]))
        whole = sum(len(ipc.frame(message)) for message in arrived)
        assert frames.has_begun == (whole < end)
    assert arrived == sent


def test_a_message_larger_than_the_socket_holds_is_heard_whole() -> None:
    ours, theirs = socket.socketpair()
    parent = Parent(theirs.detach())
    sent = ipc.Abort(["x" * (4 << 20)])
    with ours, ThreadPoolExecutor(1) as sender:
        assert parent.heard() == []
        sender.submit(ours.sendall, ipc.frame(sent))
        assert parent.heard(patience=60) == [sent]


def test_a_log_line_is_one_line_of_json() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x",
            logging.ERROR,
            __file__,
            1,
            "went %s",
            ("wrong",),
            sys.exc_info(),
            extra={"count": 3},
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["message"], fields["level"], fields["count"]) == ("went wrong", "error", 3)
    assert "ValueError" in fields["exception"]
