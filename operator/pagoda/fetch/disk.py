"""The folder that a model is put into.

A file grows under a temporary name that carries its checksum and gets its own name when it is whole
and right. A record beside the files says which commit they are of, and at the end that all are there.
What is on the disk is believed only through a checksum, so it does not matter where an earlier run
was killed.

Blocking calls: the caller runs them in a thread.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.fetch.errors import DiskFullError, FetchError
from pagoda.fetch.plan import INCOMPLETE, Plan, RemoteFile, is_safe
from pagoda.fetch.report import FailureReason, size

RECORD = ".pagoda-model.json"
READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Origin:
    """What was asked for."""

    uri: str
    revision: str


class Partial:
    """A file of which the first `offset` bytes are on the disk and hashed."""

    def __init__(self, folder: Path, file: RemoteFile):
        """Open what an earlier run left, or begin an empty file."""
        self.file = file
        self.offset = 0
        self._whole = folder / file.name
        # With the checksum in its name, a part is never continued with another commit's bytes.
        self._path = _partial_path(folder, file)
        with _disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._whole.is_file() and not self._path.exists():
                self._whole.rename(self._path)
            self._stream = self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
            self._left = os.fstat(self._stream.fileno()).st_size
        self._hasher = file.checksum.hasher(file.size)
        if self._left > file.size:
            self.restart()

    @property
    def left_to_read(self) -> bool:
        """Tell whether bytes of an earlier run are still to be read."""
        return self.offset < self._left

    def read_more(self) -> None:
        """Take in a piece of what an earlier run left."""
        with _disk_errors():
            data = self._stream.read(min(READ_BYTES, self._left - self.offset))
        if not data:  # somebody cut the file off
            self._left = self.offset
        self._hasher.update(data)
        self.offset += len(data)

    def append(self, data: bytes) -> None:
        """Add bytes; those beyond the file's size are left out, as the checksum has the last word.

        Raises:
            DiskFullError: no room is left.
            FetchError: the disk cannot be written to.
        """
        rest = memoryview(data)[: self.file.size - self.offset]
        with _disk_errors():
            while rest:
                count = self._stream.write(rest)
                self._hasher.update(rest[:count])
                self.offset += count
                rest = rest[count:]

    def restart(self) -> None:
        """Throw all bytes away."""
        with _disk_errors():
            self._stream.seek(0)
            self._stream.truncate()
        self.offset = self._left = 0
        self._hasher = self.file.checksum.hasher(self.file.size)

    def is_right(self) -> bool:
        """Tell whether a file that has its whole size has its checksum too."""
        return self._hasher.hexdigest() == self.file.checksum.digest

    def finish(self) -> None:
        """Give the file its name, once its bytes would survive a power cut."""
        with _disk_errors():
            os.fsync(self._stream.fileno())
            self._path.rename(self._whole)

    def close(self) -> None:
        """Let go of the file; its bytes stay."""
        self._stream.close()


class Folder:
    """The model's folder."""

    def __init__(self, path: Path, origin: Origin):
        """Name the folder; nothing is touched yet."""
        self.path = path
        self._origin = origin

    def complete_commit(self) -> str | None:
        """Give the commit, when an earlier run has brought the whole model."""
        record = self._record()
        files = record.get("files")
        if not (record.get("complete") and self._is_ours(record) and isinstance(files, dict)):
            return None
        for name, count in files.items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != count:
                return None
        return str(record.get("sha"))

    def prepare(self, plan: Plan) -> None:
        """Make room: remove what an earlier run for another commit has left.

        Raises:
            DiskFullError: the model does not fit.
            FetchError: the disk cannot be written to.
        """
        kept = {self.path / file.name for file in plan.files}
        kept |= {_partial_path(self.path, file) for file in plan.files}
        with _disk_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            files = self._record().get("files")
            names = filter(is_safe, files if isinstance(files, dict) else ())
            earlier = {self.path / name for name in names}
            for path in (earlier | set(self.path.rglob(f"*{INCOMPLETE}"))) - kept:
                path.unlink(missing_ok=True)
        if self._missing(plan) > self._free():
            raise DiskFullError
        self._write_record(plan, complete=False)

    def complete(self, plan: Plan) -> None:
        """Record that every file is there."""
        self._write_record(plan, complete=True)

    def explain_full(self, plan: Plan) -> FetchError:
        """Tell how much room is missing."""
        needed, free = self._missing(plan), self._free()
        return FetchError(
            FailureReason.DISK_FULL,
            f"The disk is full, or its quota is used up: {size(needed)} ({needed} bytes) of "
            f"{size(plan.size)} are still to come, {size(free)} ({free} bytes) are free. Use a node or "
            "a volume with more room.",
        )

    def _missing(self, plan: Plan) -> int:
        return plan.size - sum(self._bytes_of(file) for file in plan.files)

    def _free(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def _bytes_of(self, file: RemoteFile) -> int:
        paths = (self.path / file.name, _partial_path(self.path, file))
        return min(file.size, sum(path.stat().st_size for path in paths if path.is_file()))

    def _is_ours(self, record: dict[str, Any]) -> bool:
        return Origin(record.get("uri", ""), record.get("revision", "")) == self._origin

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, plan: Plan, *, complete: bool) -> None:
        record = {
            "uri": self._origin.uri,
            "revision": self._origin.revision,
            "sha": plan.sha,
            "files": {file.name: file.size for file in plan.files},
            "complete": complete,
        }
        temporary = self.path / f"{RECORD}{INCOMPLETE}"
        with _disk_errors():
            with temporary.open("w") as stream:
                json.dump(record, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(self.path / RECORD)
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _partial_path(folder: Path, file: RemoteFile) -> Path:
    return folder / f"{file.name}.{file.checksum.digest[:12]}{INCOMPLETE}"


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Name errors here: further up, an OSError may be the network's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError from error
        raise FetchError(
            FailureReason.FETCH_FAILED, f"The model's folder cannot be used: {error}."
        ) from error
