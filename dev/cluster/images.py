"""Container images without a registry: a writer of small OCI archives, and the import of any."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dev.cluster.build import binary
from dev.cluster.errors import ClusterError
from dev.cluster.namespaces import entering


@dataclass(frozen=True)
class Image:
    """An image of one layer: `FROM scratch`, a few files, an entry point."""

    name: str
    files: Mapping[str, Path]
    """Path in the image to the file to copy; all become executable."""
    entrypoint: tuple[str, ...]
    symlinks: Mapping[str, str] | None = None
    """Path in the image to what it points at."""


def write_archive(image: Image, path: Path) -> Path:
    """Write an image as an OCI archive (uncompressed: it is read once, from the page cache).

    Raises:
        OSError: a file of the image cannot be read.
    """
    return _write(image.name, image.entrypoint, _layer(image), path)


def write_root_archive(name: str, root: Path, path: Path) -> Path:
    """Write a whole root file system, given as a tar, as an OCI archive. It has no entry point.

    Raises:
        OSError: the tar cannot be read.
    """
    return _write(name, (), root.read_bytes(), path)


def _write(name: str, entrypoint: tuple[str, ...], layer: bytes, path: Path) -> Path:
    layer_digest = _digest(layer)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint)},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", config),
            "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
        }
    )
    index = _json(
        {
            "schemaVersion": 2,
            "manifests": [
                _descriptor(f"{kind}.manifest.v1+json", manifest)
                | {"annotations": {"io.containerd.image.name": name}}
            ],
        }
    )
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (layer, config, manifest):
            _add(archive, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
    return path


def load(node: int, path: Path) -> list[str]:
    """Import an OCI or docker archive for the kubelet; returns the names of its images.

    Raises:
        ClusterError: containerd refused it.
    """
    with path.open("rb") as archive:
        output = _ctr(node, "images", "import", "--local", "-", stdin=archive)
    names: list[str] = re.findall(r"^unpacking (\S+) ", output, re.MULTILINE)
    for name in names:
        if (full := full_name(name)) != name:
            _ctr(node, "images", "tag", "--force", name, full)
            _ctr(node, "images", "remove", name)
    return names


def tag(node: int, name: str, other: str) -> None:
    """Give an image of the node one more name.

    Raises:
        ClusterError: the node has no image of that name.
    """
    _ctr(node, "images", "tag", "--force", full_name(name), full_name(other))


def full_name(name: str) -> str:
    """What the kubelet makes of a short image name; containerd knows images by this one only.

    Archives written by buildah or podman have the short name if they were given it.
    """
    host, slash, _ = name.partition("/")
    if slash and (host == "localhost" or "." in host or ":" in host):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _ctr(node: int, *arguments: str, stdin: IO[bytes] | None = None) -> str:
    command: list[str | Path] = [binary("ctr"), "--namespace=k8s.io", *arguments]
    done = subprocess.run(entering(node, command), stdin=stdin, capture_output=True)
    if done.returncode != 0:
        raise ClusterError(f"ctr {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    # Times and owners are left at zero: the same files make the same image.
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name, path in image.files.items():
            _add(layer, name.lstrip("/"), path.read_bytes(), mode=0o755)
        for name, target in (image.symlinks or {}).items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
