"""Real Kubernetes on this machine, from Go modules only: for tests, the demo and development.

>>> with up("example") as cluster:
...     cluster.kubectl("get", "namespaces")
"""

from dev.cluster.api import Cluster, attach, down, up
from dev.cluster.build import binary
from dev.cluster.errors import ClusterError

__all__ = ["Cluster", "ClusterError", "attach", "binary", "down", "up"]
