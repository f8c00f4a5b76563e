"""IngressClasses, listed when an LLMDeployment with an Ingress needs to know its controller."""

import time

from pagoda.kube.client import KubeClient
from pagoda.kube.errors import RejectedError
from pagoda.kube.resources import INGRESS_CLASS
from pagoda.render.ingress import UNKNOWN_CLASS, IngressClassFact
from pagoda.render.objects import Object

DEFAULT_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"
KEPT_SECONDS = 30.0


class IngressClasses:
    """The classes of the cluster, at most `KEPT_SECONDS` old."""

    def __init__(self, client: KubeClient):
        self._client = client
        self._listed: list[Object] | None = None
        self._listed_at = -KEPT_SECONDS

    async def find(self, name: str | None) -> IngressClassFact:
        """Look a class up; without a name, the default one.

        Raises:
            KubeError: the API server was not reached. Without the right to read classes (an operator
                of single namespaces) the answer is that nothing is known.
        """
        if time.monotonic() >= self._listed_at + KEPT_SECONDS:
            try:
                self._listed = await self._client.list(INGRESS_CLASS)
            except RejectedError:
                self._listed = None
            self._listed_at = time.monotonic()
        if self._listed is None:
            return UNKNOWN_CLASS
        for found in self._listed:
            metadata = found["metadata"]
            is_default = metadata.get("annotations", {}).get(DEFAULT_ANNOTATION) == "true"
            if metadata["name"] == name or (name is None and is_default):
                return IngressClassFact(controller=found["spec"].get("controller"))
        return IngressClassFact(is_missing=name is not None)
