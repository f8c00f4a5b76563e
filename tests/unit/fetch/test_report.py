"""The two documents between `pagoda fetch` and the operator."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.fetch.report import (
    TERMINATION_LIMIT,
    Failure,
    FailureReason,
    failure,
    progress_text,
    size,
    termination_message,
)


@given(st.sampled_from(FailureReason), st.text(max_size=200), st.integers(1, 200))
def test_what_is_written_can_be_read_and_is_not_cut_off(reason, text, times):
    message = termination_message(Failure(reason, text * times))
    assert len(message.encode()) <= TERMINATION_LIMIT
    read = failure(message)
    assert read is not None
    assert read.reason == reason
    if read.message != text * times:
        assert len(message.encode()) > TERMINATION_LIMIT // 2
        assert (text * times).startswith(read.message[:-1])


@pytest.mark.parametrize(
    "message",
    ["", "Traceback …", "[]", "7", '"DiskFull"', '{"reason": "DiskFull"}', "{",
     '{"reason": "Invented", "message": "x"}', '{"reason": ["DiskFull"], "message": "x"}'],
)  # fmt: skip
def test_what_is_no_report(message):
    assert failure(message) is None


def test_reasons_are_spelled_for_conditions():
    assert json.loads(termination_message(Failure(FailureReason.DISK_FULL, "x"))) == {
        "reason": "DiskFull",
        "message": "x",
    }


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"state": "downloading", "bytes": 62, "total": 100}, "62 % of 100 bytes"),
        ({"bytes": 9_500_000_000, "total": 15_247_000_000}, "62 % of 14.2 GiB"),
        ({"bytes": 999_999, "total": 1_000_000}, "99 % of 976.6 KiB"),
        ({"bytes": 200, "total": 100}, "100 % of 100 bytes"),
        ({"bytes": 0, "total": 0}, "0 %"),
        ({}, "0 %"),
        ({"bytes": "7", "total": None, "state": []}, "0 %"),
        (
            {"state": "retrying", "bytes": 1, "total": 2, "detail": "the hub answered 503"},
            "50 % of 2 bytes; the hub answered 503",
        ),
        ({"state": "downloading", "bytes": 1, "total": 2, "detail": "x"}, "50 % of 2 bytes"),
    ],
)
def test_progress_in_words(data, text):
    assert progress_text(data) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes(count, text):
    assert size(count) == text
