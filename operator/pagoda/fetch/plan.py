"""Which files of a repository an engine needs, from the hub's listing. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pagoda.fetch.checksum import GIT_SHA1, Checksum
from pagoda.fetch.errors import FetchError
from pagoda.fetch.report import FailureReason

URI = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", re.ASCII)
INCOMPLETE = ".incomplete"
NAME_LIMIT = 200  # bytes of one part of a path, with room for our suffix below the usual 255

WEIGHTS = ".safetensors"
# Configuration, chat templates and tokenizers. Python files are not among them: an engine that runs
# code from a repository is nothing to get by default.
SUFFIXES = {WEIGHTS, ".json", ".jinja", ".tiktoken", ".model"}
TOKENIZER_NAMES = re.compile(r"tokenizer\.model\.v\d+|.*(merges|vocab).*\.txt")
# The same weights once more, in a form for other programs.
OTHER_FORMS = {"original", "onnx", "openvino", "coreml", "metal", "gguf"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}


@dataclass(frozen=True)
class RemoteFile:
    """A file to download."""

    name: str
    """Path inside the repository."""
    size: int
    checksum: Checksum


@dataclass(frozen=True)
class Plan:
    """What to download."""

    sha: str
    """The commit, so that every file comes from the same one."""
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def repository(uri: str) -> str:
    """Give `ORG/NAME` of `hf://ORG/NAME`.

    Raises:
        ValueError: the URI is not of that form.
    """
    match = URI.fullmatch(uri)
    if match is None or ".." in uri:
        raise ValueError(f"{uri!r} is not hf://ORG/NAME")
    return match[1]


def make_plan(repo: str, listing: Mapping[str, Any]) -> Plan:
    """Choose the files.

    Args:
        repo: for messages.
        listing: the hub's answer to /api/models/REPO/revision/REV?blobs=true.

    Raises:
        FetchError: no weights that can be used, or a listing that cannot be.
    """
    try:
        sha = str(listing["sha"])
        siblings = {str(item["rfilename"]): item for item in listing["siblings"]}
    except (KeyError, TypeError) as error:
        raise _unusable(repo, "it has no commit or no files") from error
    if not GIT_SHA1.fullmatch(sha):
        raise _unusable(repo, f"{sha!r} is no commit")
    names = wanted(siblings)
    if not any(name.endswith(WEIGHTS) for name in names):
        raise _no_safetensors(repo, siblings)
    return Plan(sha, tuple(_remote_file(repo, name, siblings[name]) for name in names))


def wanted(names: Iterable[str]) -> list[str]:
    """Keep what an engine reads, the small files first: they show soonest what is wrong."""
    kept = {name for name in names if _is_wanted(PurePosixPath(name))}
    if any(re.fullmatch(r"model.*\.safetensors", name) for name in kept):
        kept = {name for name in kept if not re.match(r"consolidated.*\.safetensors", name)}
    return sorted(kept, key=lambda name: (name.endswith(WEIGHTS), name))


def _is_wanted(path: PurePosixPath) -> bool:
    if any(part in OTHER_FORMS or part.startswith(".") for part in path.parts[:-1] if part != ".."):
        return False
    if path.name.startswith(".") or path.name.endswith(".bin.index.json"):
        return False
    return path.suffix in SUFFIXES or TOKENIZER_NAMES.fullmatch(path.name) is not None


def _remote_file(repo: str, name: str, item: Mapping[str, Any]) -> RemoteFile:
    if not is_safe(name):
        raise _unusable(repo, f"the file name {name!r} could leave the model's folder")
    try:
        lfs = item.get("lfs") or {}
        digest = lfs.get("sha256") or lfs.get("oid") or item["blobId"]
        size = int(lfs.get("size") or item["size"])
        if size < 0:
            raise ValueError("negative size")
        return RemoteFile(name, size, Checksum(str(digest)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(repo, f"{name} has no size or checksum") from error


def is_safe(name: str) -> bool:
    """Tell whether a name stays below the folder it is put in and is not one of ours."""
    parts = name.split("/")
    return (
        name.isprintable()
        and "\\" not in name
        and not name.endswith(INCOMPLETE)
        and all(part not in ("", ".", "..") and len(part.encode()) <= NAME_LIMIT for part in parts)
    )


def _no_safetensors(repo: str, names: Iterable[str]) -> FetchError:
    suffixes = {PurePosixPath(name).suffix for name in names}
    if suffixes & PICKLES:
        what = "has its weights only as pickles, which can run code when they are read"
    elif ".gguf" in suffixes:
        what = "has its weights only as GGUF, which no engine here reads"
    else:
        what = "has no weights"
    return FetchError(
        FailureReason.MODEL_FORMAT_UNSUPPORTED,
        f"{repo} {what}; *.safetensors are needed. Set spec.model.revision to a revision or "
        "spec.model.uri to a repository that has them, or convert the model and serve it from a "
        "claim (pvc://).",
    )


def _unusable(repo: str, why: str) -> FetchError:
    return FetchError(
        FailureReason.FETCH_FAILED, f"The hub's listing of {repo} cannot be used: {why}."
    )
