"""Every change of some objects as a line of text, by `kubectl get --watch`."""

import subprocess
import threading
from types import TracebackType
from typing import Self

from dev.cluster import binary
from tests.kube import Api


class Watch:
    """Gives each line to `_take`, on a thread of its own; to be used as a context."""

    def __init__(self, api: Api, *what: str, line: str):
        """Prepare.

        Args:
            api: with the namespace of the objects.
            what: arguments of `kubectl get`.
            line: what is printed of each state, as a jsonpath.
        """
        command = [binary("kubectl"), f"--kubeconfig={api.cluster.kubeconfig}", "-n", api.namespace]
        command += ["get", *what, "--watch", f'-o=jsonpath={line}{{"\\n"}}']
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._take(line.rstrip("\n"))

    def _take(self, line: str) -> None:
        raise NotImplementedError
