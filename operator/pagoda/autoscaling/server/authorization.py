"""Who may ask for what: the API server decides by a SubjectAccessReview."""

from dataclasses import asdict, dataclass

from pagoda.autoscaling.server.discovery import GROUP, VERSION
from pagoda.autoscaling.server.identity import User
from pagoda.autoscaling.server.recent import Recent
from pagoda.kube.client import KubeClient
from pagoda.kube.resources import SUBJECT_ACCESS_REVIEW
from pagoda.render.objects import Object

CACHE_SECONDS = 10.0  # as long as k8s.io/apiserver's


@dataclass(frozen=True)
class PathAccess:
    """A request for a path that is no resource, such as discovery."""

    verb: str
    path: str

    def attributes(self) -> Object:
        """Build the part of a SubjectAccessReview that says what is asked for."""
        return {"nonResourceAttributes": asdict(self)}


@dataclass(frozen=True)
class ResourceAccess:
    """A request for a metric of objects, or for the signals, with the names that RBAC knows it by."""

    verb: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    group: str = GROUP
    version: str = VERSION

    def attributes(self) -> Object:
        """Build the part of a SubjectAccessReview that says what is asked for."""
        return {"resourceAttributes": asdict(self)}


Access = PathAccess | ResourceAccess


class Authorizer:
    """Asks the API server and remembers its word for ten seconds, whichever it is."""

    def __init__(self, client: KubeClient):
        self._client = client
        self._decisions: Recent[tuple[User, Access], str | None] = Recent(CACHE_SECONDS)

    async def refusal(self, user: User, access: Access) -> str | None:
        """Give the reason why a user may not do something; None: it is allowed.

        Raises:
            KubeError: nobody could be asked.
        """
        return await self._decisions.get((user, access), lambda: self._review(user, access))

    async def _review(self, user: User, access: Access) -> str | None:
        spec = access.attributes() | {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra},
        }
        status = await self._client.review(SUBJECT_ACCESS_REVIEW, spec)
        if status.get("allowed") and not status.get("denied"):
            return None
        return str(status.get("reason") or "no rule allows it")
