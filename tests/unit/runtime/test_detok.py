"""Streamed text: the pieces add up to the whole, no character is broken, stop strings never get
out.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagoda_runtime.server.detok import IncrementalDetokenizer, StopStrings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dev.toy_model import SPECIAL, VOCAB_SIZE, byte_tokenizer

REPLACEMENT = "\ufffd"
BYTES = byte_tokenizer()


def sentencepiece_like() -> Tokenizer:
    """Words with a leading ▁, and bytes for everything unknown, as in Llama 2 and Mistral."""
    words = ["▁", "▁the", "▁cat", "s", "a", "b", "▁ü", "é"]
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + words
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("▁", "ü")]
    for token in ("t", "h", "e", "c", "▁t", "▁th", "▁c", "▁ca", "ü"):
        vocab.setdefault(token, len(vocab))
    merges += [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


PIECES = sentencepiece_like()


def stream(
    tokenizer: Tokenizer, ids: list[int], sizes: random.Random, prompt: list[int]
) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt)
    pieces = []
    at = 0
    while at < len(ids):
        size = sizes.choice((1, 1, 1, 2, 5))
        pieces.append(detokenizer.push(ids[at : at + size]))
        at += size
    return [*pieces, detokenizer.flush()]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=20), st.randoms(use_true_random=False))
def test_any_bytes_add_up(answer: bytes, prompt: bytes, sizes: random.Random) -> None:
    pieces = stream(BYTES, list(answer), sizes, list(prompt))
    assert "".join(pieces) == answer.decode(errors="replace")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(max_size=10))
def test_text_comes_out_character_by_character(answer: str, prompt: str) -> None:
    """Nothing is held back longer than its last byte, nothing is broken."""
    detokenizer = IncrementalDetokenizer(BYTES, list(prompt.encode()))
    got = ""
    for character in answer:
        for byte in character.encode():
            got += detokenizer.push([byte])
        if character != REPLACEMENT:
            assert got == answer[: len(got)]
            assert got.endswith(character)
    assert got + detokenizer.flush() == answer


@settings(max_examples=300, deadline=None)
@given(st.text("the cats abüé€🧀 ", max_size=40), st.randoms(use_true_random=False))
def test_pieces_of_words_and_byte_fallback(text: str, sizes: random.Random) -> None:
    """The prompt decides whether the answer's first word keeps its space."""
    prompt = PIECES.encode("the cat").ids
    ids = PIECES.encode("the cat" + text).ids[len(prompt) :]
    whole = PIECES.decode(prompt + ids)[len(PIECES.decode(prompt)) :]
    pieces = stream(PIECES, ids, sizes, prompt)
    assert "".join(pieces) == whole
    assert REPLACEMENT not in "".join(pieces)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_tokens_add_up(ids: list[int], skip: bool, sizes: random.Random) -> None:
    """Bytes that are no characters, words, special tokens, in any order."""
    detokenizer = IncrementalDetokenizer(BYTES, skip_special_tokens=skip)
    got, at = "", 0
    while at < len(ids):
        size = sizes.choice((1, 1, 2, 5))
        got += detokenizer.push(ids[at : at + size])
        at += size
    assert got + detokenizer.flush() == BYTES.decode(ids, skip_special_tokens=skip)


def test_special_tokens_are_not_text() -> None:
    end = BYTES.token_to_id(SPECIAL[0])
    detokenizer = IncrementalDetokenizer(BYTES, [end, ord("x"), end])
    pieces = [detokenizer.push([token]) for token in [*b"a", end, *b"b"]]
    assert pieces == ["a", "", "b"]


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "byte-fallback"])
def test_broken_characters_do_not_dam_the_stream(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert "".join(detokenizer.push([byte]) for byte in "€".encode()) == "€"
    got = "".join(detokenizer.push([0xFF]) for _ in range(100))
    assert got == REPLACEMENT * 97
    assert detokenizer.flush() == REPLACEMENT * 3


@settings(max_examples=500, deadline=None)
@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=20, max_size=20),
)
def test_stop_strings(text: str, stops: list[str], sizes: list[int]) -> None:
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    expected, stopped = text, bool(ends)
    if ends:
        longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        expected = text[: ends[0] - longest]

    cutter = StopStrings(stops)
    got, at, hit = "", 0, False
    for size in sizes:
        piece, found = cutter.push(text[at : at + size])
        hit = found is not None
        got += piece
        at += size
        assert expected.startswith(got)
        if hit:
            break
    else:
        got += cutter.flush()
    assert (got, hit) == (expected, stopped)


@pytest.mark.parametrize(
    ("text", "sent"), [("hello", "hello"), ("hello\n", "hello"), ("x\nU", "x")]
)
def test_only_what_may_become_a_stop_string_waits(text: str, sent: str) -> None:
    assert StopStrings(["\nUser:"]).push(text) == (sent, None)


def test_a_stop_string_can_be_part_of_the_answer() -> None:
    cutter = StopStrings(["b", "bc"], include=True)
    assert cutter.push("ab") == ("ab", "b")
    assert StopStrings(["cd"], include=True).push("abcde") == ("abcd", "cd")
