"""The kinds we deal with and their URL paths."""

from dataclasses import dataclass
from typing import Any

from pagoda.api import GROUP, KIND, PLURAL, VERSION
from pagoda.render.objects import MANAGED_BY, MANAGED_BY_LABEL


@dataclass(frozen=True)
class Resource:
    """One API resource."""

    group: str  # "" for the core group
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """`apiVersion` as it stands in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
        """Build the URL path of the collection (or across namespaces) or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        item = f"/{name}" if name else ""
        return f"{root}{scope}/{self.plural}{item}" + (f"/{subresource}" if subresource else "")


LLMDEPLOYMENT = Resource(GROUP, VERSION, PLURAL, KIND)
SERVICE_ACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CONTROLLER_REVISION = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
SERVICE = Resource("", "v1", "services", "Service")
DISRUPTION_BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALER = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
INGRESS = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
POD = Resource("", "v1", "pods", "Pod")
NODE = Resource("", "v1", "nodes", "Node")
CLAIM = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
INGRESS_CLASS = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENT = Resource("events.k8s.io", "v1", "events", "Event")
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
SECRET = Resource("", "v1", "secrets", "Secret")
CLUSTER_ROLE = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole")
API_SERVICE = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService")
TOKEN_REVIEW = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
SUBJECT_ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview"
)
# Not an object of the API: what the metrics server knows of all LLMDeployments.
SIGNALS = Resource("custom.metrics.k8s.io", "v1beta2", "signals", "SignalsList")

CHILDREN = (
    SERVICE_ACCOUNT,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    SERVICE,
    DISRUPTION_BUDGET,
    INGRESS,
    AUTOSCALER,
)
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
NOT_CHILD_SELECTOR = f"{MANAGED_BY_LABEL}!={MANAGED_BY}"

_BY_KIND = {(r.api_version, r.kind): r for r in (LLMDEPLOYMENT, *CHILDREN, POD, LEASE, EVENT)}


def resource_of(obj: dict[str, Any]) -> Resource:
    """Find the resource of an object by its apiVersion and kind."""
    return _BY_KIND[obj["apiVersion"], obj["kind"]]
