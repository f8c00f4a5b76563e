"""No secret passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.fetch.redact import Redactor


@given(st.text(), st.text())
def test_the_token_never_passes(before, after):
    token = "s3cr3t-t0k3n"
    assert token not in Redactor(token)(f"{before}{token}{after}")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("token hf_abcDEF1234 is bad", "token *** is bad"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("https://cdn.test/a/b?X-Signature=abc&y=1 broke", "https://cdn.test/a/b?*** broke"),
        ('"http://user:pw@proxy.test:3128/x"', '"http://***@proxy.test:3128/x"'),
        ("https://hub.test/o/n and a@b.test", "https://hub.test/o/n and a@b.test"),
        ("hf_ is a prefix; hf://o/n an address", "hf_ is a prefix; hf://o/n an address"),
    ],
)
def test_what_looks_like_a_secret(text, clean):
    assert Redactor(None)(text) == clean
