"""The edge to kopf, which we use for watching and for nothing else.

Handlers only put the object into the cache and a key into the queue. kopf's own state keeping
(annotations, finalizers, timers, indexes) is not used: at rest it writes nothing to any object.
"""

import asyncio
import datetime
import random
import time
from collections.abc import Iterator
from typing import Any

import kopf

from pagoda.controller.cache import ObjectCache, parent_key
from pagoda.controller.cordons import CORDONED, Cordons
from pagoda.controller.queue import WorkQueue
from pagoda.kube.client import KubeClient
from pagoda.kube.resources import (
    CHILD_SELECTOR,
    CHILDREN,
    LLMDEPLOYMENT,
    NODE,
    POD,
    Resource,
    resource_of,
)

WATCHED = (LLMDEPLOYMENT, *CHILDREN, POD)
LOGIN_INTERVAL_SECONDS = 5.0
TOKEN_LIFE = datetime.timedelta(minutes=10)  # projected tokens are renewed well within an hour


class ForeverBackoff:
    """Delays between tries that never run out: kopf ends the process when they do."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 4, 8, 15)
        while True:
            yield random.uniform(20, 30)


def registry(
    client: KubeClient,
    cache: ObjectCache,
    cordons: Cordons,
    queue: WorkQueue,
    watched_at: dict[str, float],
) -> kopf.OperatorRegistry:
    """Register the login and one handler per watched kind.

    Args:
        client: whose connection settings kopf shares.
        cache: takes in the objects.
        cordons: takes in the nodes.
        queue: takes in the keys.
        watched_at: filled with the time of each kind's last event (monotonic).
    """
    handlers = kopf.OperatorRegistry()
    logged_in_at = -LOGIN_INTERVAL_SECONDS

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        # kopf logs in again at once when the API server says 401, and would do so without end.
        nonlocal logged_in_at
        await asyncio.sleep(logged_in_at + LOGIN_INTERVAL_SECONDS - time.monotonic())
        logged_in_at = time.monotonic()
        return await _connection(client)

    async def absorb(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        watched_at[resource_of(obj).plural] = time.monotonic()
        parents = {cache.known_parent(obj), parent_key(obj)}  # before and after
        if cache.absorb(event["type"], obj):
            for key in parents:
                if key is not None:
                    queue.add(key)

    async def cordon(event: kopf.RawEvent, **_: Any) -> None:
        watched_at[NODE.plural] = time.monotonic()
        for name in cordons.absorb(event["type"], event["object"]):  # type: ignore[arg-type]
            for key in cache.on_node(name):
                queue.add(key)

    if cordons.visible:
        kopf.on.event(NODE.group, NODE.version, NODE.plural, registry=handlers)(cordon)
    for resource in WATCHED:
        kopf.on.event(
            resource.group, resource.version, resource.plural, id=resource.plural, registry=handlers
        )(absorb)
    return handlers


class _NoDiff(kopf.DiffBaseStorage):
    """Keeps nothing of an object: we do not use kopf's comparison, which copies it whole."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def settings(*, namespaced: bool, inactivity_seconds: float) -> kopf.OperatorSettings:
    """Tune kopf: watches that notice silence, tries that never end, nothing posted."""
    tuned = kopf.OperatorSettings()
    tuned.peering.standalone = True
    tuned.posting.enabled = False
    tuned.persistence.diffbase_storage = _NoDiff()
    # Following new and changed CRDs needs a cluster-wide permission.
    tuned.scanning.disabled = namespaced
    tuned.watching.server_timeout = 290  # below the idle limits of common load balancers
    tuned.watching.connect_timeout = 10
    tuned.watching.inactivity_timeout = inactivity_seconds
    tuned.networking.request_timeout = 30
    tuned.networking.error_backoffs = ForeverBackoff()
    tuned.queueing.worker_limit = None
    tuned.queueing.idle_timeout = 2
    tuned.process.ultimate_exiting_timeout = 60
    for resource in (*CHILDREN, POD):
        _select(tuned, resource)
    nodes = (NODE.group, NODE.version, NODE.plural)
    tuned.watching.field_selectors[nodes] = CORDONED
    return tuned


def _select(tuned: kopf.OperatorSettings, resource: Resource) -> None:
    selector = (resource.group, resource.version, resource.plural)
    tuned.watching.label_selectors[selector] = CHILD_SELECTOR


async def _connection(client: KubeClient) -> kopf.ConnectionInfo:
    configuration = client.configuration
    # "bearer TOKEN" in a pod, "Bearer TOKEN" from a kubeconfig.
    header = await configuration.get_api_key_with_prefix("BearerToken")
    token = header.split()[-1] if header else None
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        token=token,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        expiration=datetime.datetime.now(datetime.UTC) + TOKEN_LIFE if token else None,
    )
