"""Messages of causes: steady, short and without secrets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.controller.cause import Observation
from pagoda.controller.diagnosis import shorten
from pagoda.controller.diagnosis.text import MESSAGE_LIMIT, shorten_tail
from pagoda.controller.status import observe

from tests.broken_pods import PLAN, ended, image
from tests.builders import live_deployment, llmd


def message_of(made: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    seen = Observation(parent, PLAN, None, live_deployment(PLAN), (made,), True)
    return observe(seen, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ended("2026-01-01T10:00:00.1Z ERROR pid=12 lost at 0x7f12ab34cd"), ended("2026-01-01T10:05:09.7Z ERROR pid=98 lost at 0x7f99999999")),
        (image("ErrImagePull", "rpc error: code = Unknown desc = dial tcp: read tcp 10.0.0.1:4001->10.0.0.2:443: reset"), image("ImagePullBackOff", 'Back-off pulling image "r.example/a/b:1": ErrImagePull: dial tcp: read tcp 10.0.0.1:55123->10.0.0.2:443: reset')),
    ],
)  # fmt: skip
def test_what_differs_in_nothing_but_numbers_writes_no_status(one, other):
    first = message_of(one, llmd())
    other["status"]["containerStatuses"][0]["restartCount"] += 1
    assert message_of(other, llmd() | {"status": first}) == first
    edited = llmd(generation=2) | {"status": first}
    assert message_of(other, edited)["observedGeneration"] == 2


secrets = st.text(
    alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    min_size=12,
    max_size=40,
)
PLACES = (
    "hf_{}",
    "token=hf_{} rest",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "{{'Authorization': 'Bearer {}'}}",
    "HF_TOKEN={}",
    "AWS_SECRET_ACCESS_KEY={} AWS_REGION=x",
    "environ({{'HOME': '/tmp', 'DB_PASSWORD': '{}'}})",
    '{{"api_key": "{}"}}',
    '{{\\"secret\\": \\"{}\\"}}',
    "https://user:{}@r.example/v2/",
    "https://{}@r.example/v2/",
    "https://s3.example/x?X-Amz-Signature={}&y=1",
    "https://s3.example/x?X-Amz-Security-Token={}&y=1",
    "AKIA{}",
    "eyJ{}.payload.signature",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "password: {}",
    "ghp_{} glpat-{}",
    'passphrase = "my {} words"',
)  # fmt: skip


around = st.text(alphabet=" ,.:;'\"=&é\n\t", max_size=20)


@given(secret=secrets, place=st.sampled_from(PLACES), before=around, after=around)
def test_no_secret_reaches_a_message(secret, place, before, after):
    if place.startswith("AKIA"):
        secret = secret.upper()
    text = f"{before} {place.replace('{}', secret).replace('{{', '{').replace('}}', '}')} {after}"
    assert secret not in shorten(text)
    assert secret not in shorten_tail(text)


@given(st.text())
def test_messages_are_one_short_line(text):
    line = shorten(text)
    assert len(line) <= MESSAGE_LIMIT + 1
    assert "\n" not in line


def test_log_that_is_cut_within_a_secret_loses_that_line():
    log = "f_abcdefghijklmnop leaked\n" + "x" * 2100
    assert "abcdefgh" not in shorten_tail(log)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=100 is above the limit",
        "tokenizer: /models/x is missing",
        'secret "hf-token" not found',
        "couldn't find key HF_TOKEN in Secret default/hf",
    ],
)
def test_what_is_no_secret_stays(text):
    assert shorten(text) == text
