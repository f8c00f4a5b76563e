"""Single tokens as text and as bytes, for log-probabilities and for /tokenize."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenText:
    """What each token stands for, whatever its neighbours: a decoder of a whole text may join bytes
    of several tokens into one character, and drop a space at the beginning.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token: added.content for token, added in tokenizer.get_added_tokens_decoder().items()
        }
        steps = {step["type"]: step for step in _decoder_steps(tokenizer)}
        self._byte_level = _byte_alphabet() if "ByteLevel" in steps else None
        self._byte_fallback = "ByteFallback" in steps
        # ▁ in place of a space, as sentencepiece writes it.
        self._space = next(
            (
                _space_of(step)
                for step in steps.values()
                if step["type"] in ("Metaspace", "Replace") and _space_of(step)
            ),
            None,
        )
        self._cache: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes a token adds to a text; those of several tokens may make one character."""
        if (known := self._cache.get(token)) is None:
            known = self._cache[token] = self._bytes_of(token)
        return known

    def text_of(self, token: int) -> str:
        """The same as text, with U+FFFD for what is no whole character."""
        return self.bytes_of(token).decode(errors="replace")

    def name_of(self, token: int) -> str:
        """The token as the vocabulary writes it; "" for an id without a token."""
        return self._tokenizer.id_to_token(token) or ""

    def _bytes_of(self, token: int) -> bytes:
        if (content := self._added.get(token)) is not None:
            return content.encode()
        name = self.name_of(token)
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(name)):
            return bytes([int(byte.group(1), 16)])
        if self._byte_level is not None:
            parts = (self._byte_level.get(char, char.encode()) for char in name)
            return b"".join(parts)
        if self._space is not None:
            return name.replace(self._space, " ").encode()
        decoded: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return decoded.encode()


def _decoder_steps(tokenizer: Tokenizer) -> Iterator[Mapping[str, Any]]:
    if tokenizer.decoder is None:
        return
    # The library shows what a decoder is made of in its pickled form only, which is JSON.
    pending = [json.loads(tokenizer.decoder.__getstate__())]
    while pending:
        step = pending.pop()
        yield step
        pending += step.get("decoders", ())


def _space_of(step: Mapping[str, Any]) -> str | None:
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    if step["content"] == " ":
        pattern = step["pattern"].get("String")
        return None if pattern is None else str(pattern)
    return None


def _byte_alphabet() -> dict[str, bytes]:
    """The printable character that byte-level tokenizers write for each byte: itself, or one from
    256 up.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {chr(b if b in printable else next(others)): bytes([b]) for b in range(256)}
