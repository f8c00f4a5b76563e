"""A vocabulary in which every word is one token, for all sides the same, and prompts from it."""

import itertools
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from dev.toy_model import byte_alphabet

SPACE = "\u0120"  # how byte-level tokenizers write a space
END = "<|end|>"


@dataclass(frozen=True)
class Prompt:
    """The same prompt in both forms, for sides that take no token ids."""

    ids: list[int]
    text: str


class Vocabulary:
    """The bytes, then words of one letter, of two and so on until it is full, then END.

    A word begins with its space and is made from the word without its last letter, by one merge. So
    each word is read as one token, and one token is one word, in the answer too.
    """

    def __init__(self, size: int) -> None:
        self.tokens = byte_alphabet()
        self.merges: list[tuple[str, str]] = []
        shorter = [SPACE]
        while len(self.tokens) < size - 1:
            pairs = itertools.product(shorter, string.ascii_lowercase)
            taken = list(itertools.islice(pairs, size - 1 - len(self.tokens)))
            self.merges += taken
            shorter = [stem + letter for stem, letter in taken]
            self.tokens += shorter
        self.tokens.append(END)

    def prompt(self, source: random.Random, length: int, prefix: Sequence[int] = ()) -> Prompt:
        """A prompt of `length` tokens; all but the prefix drawn anew, so no cache knows them."""
        ids = list(prefix)
        while len(ids) < length:
            ids.append(source.randrange(256, len(self.tokens) - 1))
        return Prompt(ids, "".join(self.tokens[i] for i in ids).replace(SPACE, " "))
