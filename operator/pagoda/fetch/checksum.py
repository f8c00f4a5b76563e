"""Checksums as a hub lists them: SHA-256 for large files, git's blob hash for the others. Pure."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


class Hasher(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more of the content."""

    def hexdigest(self) -> str:
        """Give the hash of all that was taken in."""


@dataclass(frozen=True)
class Checksum:
    """The hash that a file must have."""

    digest: str
    """64 hexadecimal digits of SHA-256, or 40 of a git blob's SHA-1."""

    def __post_init__(self) -> None:
        if not (SHA256.fullmatch(self.digest) or GIT_SHA1.fullmatch(self.digest)):
            raise ValueError(f"{self.digest!r} is no checksum")

    def hasher(self, size: int) -> Hasher:
        """Begin a hash over a content of `size` bytes."""
        if SHA256.fullmatch(self.digest):
            return hashlib.sha256()
        # A blob's header is part of its hash (git-hash-object(1)).
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
