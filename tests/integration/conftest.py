import os
from collections.abc import Iterator

import pytest

from dev.cluster import Cluster, up


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """A real API server and controller manager, without a node; one per pytest process."""
    with up(f"pytest-{os.getpid()}") as cluster:
        yield cluster
