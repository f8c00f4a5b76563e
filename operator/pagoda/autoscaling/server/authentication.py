"""Who sends a request: the user a front proxy vouches for, or the holder of a token."""

import hashlib
from collections.abc import Callable

from multidict import MultiMapping

from pagoda.autoscaling.server.identity import FrontProxy, User
from pagoda.autoscaling.server.recent import Recent
from pagoda.kube.client import KubeClient
from pagoda.kube.resources import TOKEN_REVIEW

CACHE_SECONDS = 10.0  # as long as k8s.io/apiserver's


class Authenticator:
    """Finds out who a request is from; who proves nothing is nobody."""

    def __init__(self, client: KubeClient, front_proxy: Callable[[], FrontProxy | None]):
        """Take the way to ask about tokens and the present settings of the front proxy."""
        self._client = client
        self._front_proxy = front_proxy
        self._tokens: Recent[bytes, User | None] = Recent(CACHE_SECONDS)

    async def user(self, peer: str | None, headers: MultiMapping[str]) -> User | None:
        """Identify the sender.

        Args:
            peer: common name of a certificate that the front proxy's authority has signed and
                whose key the sender holds; None without one.
            headers: of the request.

        Returns:
            The user, or None.

        Raises:
            KubeError: a token could not be checked.
        """
        proxy = self._front_proxy()
        if proxy is not None and peer is not None and proxy.trusts(peer):
            user = proxy.user(headers)
            if user is not None:
                return user.with_authenticated()
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        # The token itself is not kept longer than the request lasts.
        digest = hashlib.sha256(token.encode()).digest()
        return await self._tokens.get(digest, lambda: self._review(token))

    async def _review(self, token: str) -> User | None:
        status = await self._client.review(TOKEN_REVIEW, {"token": token})
        if not status.get("authenticated"):
            return None
        user = status["user"]
        return User(
            name=user["username"],
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            extra=tuple((k, tuple(v)) for k, v in sorted((user.get("extra") or {}).items())),
        ).with_authenticated()
