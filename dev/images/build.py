"""The way from a target's name to an image archive in the cache.

The work itself happens in `worker.py`, which runs in a mount and a process namespace of its own:
however a build ends, no mount and no process of it stays behind.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.cluster.errors import ClusterError
from dev.cluster.host import require_linux, require_root
from dev.images import spec, tools

# Archives that stay in the cache, of each image.
KEPT = 3


class ImageError(ClusterError):
    """An image cannot be built; the message ends with what the build said last."""


@dataclass(frozen=True)
class Image:
    """A built image: the archive, and the name under which a container runtime imports it."""

    reference: str
    archive: Path


def reference(target: str) -> str:
    """Name of the image that the sources give now: `pagoda:dev-<12 hex digits>`."""
    wanted = _target(target)
    return _reference(wanted, spec.content_key(wanted))


def build(target: str) -> Path:
    """Returns the archive of the image, built first if the sources changed.

    It is a docker-archive, whose layers are not compressed: compressing took most of the time.

    Raises:
        ImageError: unknown target, or the build failed.
        ClusterError: not Linux, not root, or Debian packages are missing.
    """
    return make(target).archive


def make(target: str) -> Image:
    """Like `build`, with the name that belongs to the archive even if sources change meanwhile."""
    wanted = _target(target)
    if (image := _cached(wanted, spec.content_key(wanted))) is not None:
        return image
    require_linux()
    require_root("building images")
    with _lock():
        tools.require()
        return _build(wanted)


def images_folder() -> Path:
    """Where archives, layers and bases are kept between builds."""
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _build(target: spec.Target) -> Image:
    scratch = images_folder() / "tmp"
    # We hold the lock: what is in there was left behind by a build that was killed.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        context = Path(temporary) / "context"
        spec.snapshot(target, context)
        key = spec.content_key(target, context)
        if (image := _cached(target, key)) is not None:
            return image
        image = Image(_reference(target, key), _archive(target, key))
        _say(f"building {image.reference}")
        started = time.monotonic()
        built = Path(temporary) / "image.tar"
        _run_worker(target, context, image.reference, built)
        size = built.stat().st_size / 1e6
        built.rename(image.archive)
        _say(f"built {image.reference}: {size:.0f} MB in {time.monotonic() - started:.0f} s")
    _prune(target)
    return image


def _run_worker(target: spec.Target, context: Path, name: str, built: Path) -> None:
    # setpriv: a killed parent takes `unshare` along, which takes along all that is below it.
    namespace = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    namespace += ["--kill-child", "--mount-proc", "--"]
    worker = [
        sys.executable,
        "-m",
        "dev.images.worker",
        target.name,
        str(context),
        name,
        str(built),
    ]
    log = images_folder() / f"{target.name}.log"
    with log.open("w") as file:
        done = subprocess.run(
            namespace + worker,
            cwd=spec.ROOT,
            env=os.environ | {"TMPDIR": str(built.parent)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise ImageError(f"building {name} failed, the whole log is in {log}:\n{tail}")


def _target(name: str) -> spec.Target:
    if (target := spec.TARGETS.get(name)) is None:
        raise ImageError(f"no image {name!r}; there are: {', '.join(spec.TARGETS)}")
    return target


def _reference(target: spec.Target, key: str) -> str:
    return f"{target.repository}:dev-{key}"


def _archive(target: spec.Target, key: str) -> Path:
    return images_folder() / f"{target.repository}.dev-{key}.tar"


def _cached(target: spec.Target, key: str) -> Image | None:
    archive = _archive(target, key)
    try:
        os.utime(archive)  # pruning goes by the time of the last use
    except FileNotFoundError:
        return None
    return Image(_reference(target, key), archive)


def _prune(target: spec.Target) -> None:
    archives = images_folder().glob(f"{target.repository}.dev-*.tar")
    newest_first = sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)
    for archive in newest_first[KEPT:]:
        archive.unlink()


@contextmanager
def _lock() -> Iterator[None]:
    """One build at a time: they share the layer store, and the machine's few cores."""
    with (images_folder() / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process that builds images")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
