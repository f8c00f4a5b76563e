"""From token ids to text, piece by piece: never half a character, never a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Tokenizer

# What a decoder writes for bytes that are no character (yet). A character has at most 4 bytes, so
# at most its first 3 can be waiting for the rest; replacement characters before those are there to
# stay.
_REPLACEMENT = "\ufffd"
_MAX_WAITING = 3
# Tokens of the prompt decoded along, because a tokenizer may treat the first token of a text
# differently.
_PRIMING = 8


class IncrementalDetokenizer:
    """Decodes one answer as it grows; the pieces returned add up to the decoding of the whole.

    Keeps a window of recent tokens: the ones before `_read` have been returned and are decoded
    again only as context, so a step costs the same however long the answer is.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids = list(prompt_ids[-_PRIMING:])
        if self._decode(self._ids).endswith(_REPLACEMENT):
            self._ids = []  # A prompt that ends inside a character is no context for what follows.
        self._start = 0
        self._read = len(self._ids)
        self._returned = self._window()

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; return the text they complete, possibly none."""
        return "".join(map(self._push, token_ids))

    def flush(self) -> str:
        """The answer has ended: return what was held back, broken characters included."""
        text = self._window()
        if not text.startswith(self._returned):
            text = self._drop_context()
        return self._advance(text, whole=True)

    def _push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._window()
        if not text.startswith(self._returned):
            # Tokenizers with byte fallback decode a run of byte tokens as a whole or not at all: an
            # unfinished character spoils finished ones before it, until its last byte is there.
            if len(self._ids) - self._read <= _MAX_WAITING:
                return ""
            text = self._drop_context()
        waiting = 0
        while waiting < _MAX_WAITING and text.endswith(_REPLACEMENT, 0, len(text) - waiting):
            waiting += 1
        return self._advance(text[: len(text) - waiting], whole=waiting == 0)

    def _advance(self, text: str, *, whole: bool) -> str:
        piece = text[len(self._returned) :]
        if piece and whole:
            # Everything so far is out: the tokens just returned become the context of the next.
            self._start, self._read = self._read, len(self._ids)
            self._returned = self._window()
        elif piece:
            self._returned = text
        return piece

    def _drop_context(self) -> str:
        self._start, self._returned = self._read, ""
        return self._window()

    def _window(self) -> str:
        return self._decode(self._ids[self._start :])

    def _decode(self, ids: Sequence[int]) -> str:
        if len(ids) == 1:  # Every other time.
            return _alone(self._tokenizer, ids[0], self._skip_special_tokens)
        return self._tokenizer.decode(list(ids), skip_special_tokens=self._skip_special_tokens)


@lru_cache(maxsize=1 << 16)
def _alone(tokenizer: Tokenizer, token_id: int, skip_special_tokens: bool) -> str:
    return tokenizer.decode([token_id], skip_special_tokens=skip_special_tokens)


class StopStrings:
    """Cuts a growing text before the first stop string (after it, if that is to be included), holding
    back what may become one.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._held = ""

    def push(self, piece: str) -> tuple[str, str | None]:
        """Add text; return the part that is safe to send, and the stop string if one was met."""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            # The one that is complete first, so that it does not matter in which pieces text comes.
            end, at = min(found)
            self._held = ""
            return text[: end if self._include else at], text[at:end]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The answer has ended: what was held back did not become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that is a proper beginning of stop."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0
    )
