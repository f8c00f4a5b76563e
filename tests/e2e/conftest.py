import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from dev.cluster import Cluster, attach, up
from dev.cluster.images import Image, write_archive
from tests.e2e.busybox import static_busybox
from tests.e2e.install import install


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


@pytest.fixture(scope="session")
def pagoda(node_cluster: Cluster) -> Cluster:
    """The chart, installed as the demo installs it, but that the end of a load is seen sooner."""
    install(node_cluster, values={"metricsServer": {"extraArgs": ["--window-seconds=30"]}})
    return node_cluster


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
    busybox = static_busybox()
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
