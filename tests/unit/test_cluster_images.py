import json
import tarfile
from pathlib import Path

import pytest

from dev.cluster.images import Image, full_name, write_archive


def test_archive_has_what_its_descriptors_name(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    image = Image("localhost/x:1", {"bin/x": program}, ("/bin/x",), symlinks={"bin/y": "x"})
    with tarfile.open(write_archive(image, tmp_path / "image.tar")) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        def blob(descriptor: dict[str, str]) -> bytes:
            content = read(f"blobs/{descriptor['digest'].replace(':', '/')}")
            assert len(content) == descriptor["size"]
            return content

        (entry,) = json.loads(read("index.json"))["manifests"]
        assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:1"}
        manifest = json.loads(blob(entry))
        assert json.loads(blob(manifest["config"]))["config"] == {"Entrypoint": ["/bin/x"]}
        (layer,) = manifest["layers"]
        (tmp_path / "layer.tar").write_bytes(blob(layer))
    with tarfile.open(tmp_path / "layer.tar") as files:
        assert [(f.name, f.mode) for f in files if f.isfile()] == [("bin/x", 0o755)]
        assert [(f.name, f.linkname) for f in files if f.issym()] == [("bin/y", "x")]


def test_same_files_make_the_same_archive(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    image = Image("localhost/x:1", {"x": program}, ("/x",))
    first, second = (write_archive(image, tmp_path / name) for name in ("1.tar", "2.tar"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("x:1", "docker.io/library/x:1"),
        ("team/x:1", "docker.io/team/x:1"),
        ("localhost/x:1", "localhost/x:1"),
        ("example.org/x:1", "example.org/x:1"),
        ("host:5000/x", "host:5000/x"),
    ],
)
def test_full_name_of_an_image(name: str, full: str) -> None:
    assert full_name(name) == full
