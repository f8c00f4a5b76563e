"""The Secret in which the replicas share their certificates.

The chart makes it, empty; the server has no right to make one. Both replicas look after it: who
writes second is refused by the resourceVersion, and takes over what the first has written.
"""

import asyncio
import base64
import datetime
import logging
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature

from pagoda.autoscaling.server.certificates import Certificates, Pair, Rules, advance
from pagoda.kube.client import KubeClient
from pagoda.kube.errors import ConflictError, KubeError
from pagoda.kube.mirror import Mirror
from pagoda.kube.resources import SECRET
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

# `ca.crt` is for those who mount the Secret to trust us, the operator first of all.
AUTHORITIES = "ca.crt"
CHAIN, KEY = "tls.crt", "tls.key"
NEXT_CHAIN, NEXT_KEY = "next.crt", "next.key"
RETRY_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 60.0


class ServingSecret:
    """Keeps certificates in the Secret, and tells of what it holds."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        rules: Rules,
        *,
        published: Callable[[Certificates], bytes],
        on_change: Callable[[Certificates], None],
    ):
        """Take the Secret's place.

        Args:
            client: the way to the API server.
            namespace: of the Secret.
            name: of the Secret.
            rules: names and times of certificates.
            published: tells which authorities clients are told to trust, PEM.
            on_change: given what is held whenever that changes.
        """
        self._client = client
        self._place = namespace, name
        self._rules = rules
        self._published = published
        self._on_change = on_change
        self._changed = asyncio.Event()
        self.held: Certificates | None = None
        self._mirror = Mirror(
            client,
            SECRET,
            namespace=namespace,
            field_selector=f"metadata.name={name}",
            on_change=lambda _before, _after: self._changed.set(),
        )

    async def run(self) -> None:
        """Look after it for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._mirror.run())
            tasks.create_task(self._keep())

    def look_again(self) -> None:
        """Note that what is published has changed."""
        self._changed.set()

    async def _keep(self) -> None:
        await self._mirror.synced.wait()
        # Certificates of minutes, in tests, need looks every few seconds.
        wait = min(LONGEST_WAIT_SECONDS, self._rules.settle.total_seconds() / 4)
        while True:
            self._changed.clear()
            delay = wait
            try:
                await self._look()
            except ConflictError:
                log.info("the other replica has written the Secret %s first", self._place[1])
                delay = RETRY_SECONDS
            except KubeError as error:
                log.warning("the Secret %s cannot be written: %s", self._place[1], error)
                delay = RETRY_SECONDS
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        secret = self._mirror.objects.get(self._place)
        if secret is None:
            log.error("there is no Secret %s/%s; the chart makes it", *self._place)
            return
        held = _read(secret)
        if held is not None and held != self.held:
            self.held = held
            self._on_change(held)
        published = self._published(held) if held is not None else b""
        now = datetime.datetime.now(datetime.UTC)
        if (wanted := advance(held, self._rules, now, published)) is None:
            return
        await self._client.replace(SECRET, secret | {"data": _data(wanted)})
        log.info(
            "certificate of %s written",
            wanted.current.issued.isoformat(),
            extra={"expires": wanted.current.expires.isoformat(), "has_next": bool(wanted.next)},
        )


def _read(secret: Object) -> Certificates | None:
    """Read what the Secret holds; None if that is nothing, or of no use."""
    try:
        data = {k: base64.b64decode(v) for k, v in (secret.get("data") or {}).items()}
        if CHAIN not in data:
            return None
        current = Pair.parse(data[CHAIN], data[KEY])
        successor = None
        if NEXT_CHAIN in data:
            successor = Pair.parse(data[NEXT_CHAIN], data[NEXT_KEY])
        previous = b"" if successor else data[AUTHORITIES].replace(current.authority, b"")
        return Certificates(current, successor, previous)
    except (KeyError, ValueError, TypeError, InvalidSignature):
        log.warning("what the Secret holds is no certificate of ours; it is made anew")
        return None


def _data(held: Certificates) -> dict[str, str]:
    data = {AUTHORITIES: held.bundle, CHAIN: held.current.chain, KEY: held.current.key}
    if held.next is not None:
        data |= {NEXT_CHAIN: held.next.chain, NEXT_KEY: held.next.key}
    return {name: base64.b64encode(value).decode() for name, value in data.items()}
