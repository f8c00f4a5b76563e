import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import Cluster, attach, up
from dev.cluster.build import cache_folder
from dev.cluster.images import Image, write_archive


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without the shared cluster go first: some start their own, and one node fits at a time."""
    items.sort(key=lambda item: "node_cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Cluster]:
    """A cluster with a node: the one named by $PAGODA_E2E_CLUSTER, else one for this session."""
    if name := os.environ.get("PAGODA_E2E_CLUSTER"):
        yield attach(name)
        return
    with up("e2e", node=True) as cluster:
        yield cluster


@pytest.fixture
def namespace(node_cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    node_cluster.kubectl("create", "namespace", name)
    yield name
    node_cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def shell_image(node_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image in the node with a shell and the usual tools (busybox)."""
    busybox = _busybox()
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    image = Image(
        "localhost/shell:test",
        {"bin/busybox": busybox},
        ("/bin/sh",),
        symlinks={f"bin/{tool}": "busybox" for tool in listed.stdout.split() if tool != "busybox"},
    )
    archive = write_archive(image, tmp_path_factory.mktemp("image") / "shell.tar")
    assert node_cluster.load_image(archive) == [image.name]
    return image.name


def _busybox() -> Path:
    """Debian's static busybox, unpacked but not installed."""
    path = cache_folder() / "debian" / "busybox"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            # As apt's own user has no right to this folder, apt says that it downloads as root.
            subprocess.run(["apt-get", "-qq", "update"], check=True)
            subprocess.run(["apt-get", "-qq", "download", "busybox-static"], cwd=folder, check=True)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
            (Path(folder) / "bin" / "busybox").rename(path)
    return path
