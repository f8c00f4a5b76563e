"""Single tokens: the bytes they stand for add up to the text."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda_runtime.server.token_text import TokenText

from dev.toy_model import END, VOCAB_SIZE, byte_tokenizer
from tests.unit.runtime.test_detok import PIECES

TOKENIZER = byte_tokenizer()
BYTE_LEVEL = TokenText(TOKENIZER)
BYTE_FALLBACK = TokenText(PIECES)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30))
def test_bytes_of_a_byte_level_tokenizer(ids: list[int]) -> None:
    whole = b"".join(map(BYTE_LEVEL.bytes_of, ids))
    assert whole.decode(errors="replace") == TOKENIZER.decode(ids, skip_special_tokens=False)


@settings(max_examples=200, deadline=None)
@given(st.text("the cats abüé€🧀 ", max_size=40))
def test_bytes_of_a_tokenizer_with_byte_fallback(text: str) -> None:
    whole = b"".join(map(BYTE_FALLBACK.bytes_of, PIECES.encode(text).ids)).decode()
    # The first word gets a space that decoding takes away.
    assert whole.removeprefix(" ") == text.removeprefix(" ")


def test_half_a_character_is_no_text() -> None:
    first, second = "ü".encode()
    assert BYTE_LEVEL.bytes_of(first) == bytes([first])
    assert BYTE_LEVEL.text_of(second) == "\ufffd"
    assert BYTE_LEVEL.text_of(ord(" ")) == " "
    assert BYTE_LEVEL.text_of(END) == BYTE_LEVEL.name_of(END) == "<|end|>"
    assert BYTE_LEVEL.name_of(10**6) == ""
