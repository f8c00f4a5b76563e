"""The HTTP surface: who may ask is settled before anything is looked up."""

import json
import logging
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram

from pagoda.autoscaling.server import discovery
from pagoda.autoscaling.server.answers import ApiError, value_list
from pagoda.autoscaling.server.authentication import Authenticator
from pagoda.autoscaling.server.authorization import (
    Access,
    Authorizer,
    PathAccess,
    ResourceAccess,
)
from pagoda.autoscaling.server.bulk import PATH as SIGNALS
from pagoda.autoscaling.server.identity import User
from pagoda.autoscaling.server.values import Values
from pagoda.kube.errors import KubeError
from pagoda.render.objects import Object

log = logging.getLogger(__name__)

ROOT = f"/apis/{discovery.GROUP_VERSION}"
METRIC = ROOT + "/namespaces/{namespace}/{resource}/{name}/{metric}"
LONGEST_PATH = 1024  # more than any names need; decisions are remembered by path
OPEN = ("/healthz", "/livez", "/readyz")

# Named and labelled as the API server's own.
REQUESTS = Counter(
    "apiserver_request_total",
    "Requests by verb, resource and status code.",
    ["verb", "resource", "code"],
)
SECONDS = Histogram(
    "apiserver_request_duration_seconds",
    "Time from request to answer.",
    ["resource"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

Peer = Callable[[web.Request], str | None]


class Routes:
    """Handlers and what stands before them."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        values: Values,
        *,
        peer: Peer,
        signals: Callable[[], Object],
        unready: Callable[[], str],
    ):
        """Take what requests are answered from.

        Args:
            authenticator: tells who asks.
            authorizer: tells who may.
            values: of metrics.
            peer: tells the name in a request's verified client certificate.
            signals: gives the bulk answer.
            unready: says why this replica is not to be asked; "" if it may be.
        """
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._values = values
        self._peer = peer
        self._signals = signals
        self._unready = unready

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._answer, self._guard])
        app.router.add_routes(
            [
                web.get("/healthz", self._alive, allow_head=False),
                web.get("/livez", self._alive, allow_head=False),
                web.get("/readyz", self._ready, allow_head=False),
                web.get("/apis", self._groups, allow_head=False),
                web.get(f"/apis/{discovery.GROUP}", self._group, allow_head=False),
                web.get(ROOT, self._resources, allow_head=False),
                web.get(METRIC, self._metric, allow_head=False),
                web.get(SIGNALS, self._bulk, allow_head=False),
            ]
        )
        return app

    # --- before every handler -----------------------------------------------------------------
    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn whatever happens into an answer that a Kubernetes client understands."""
        began = time.monotonic()
        try:
            response = await handler(request)
        except ApiError as error:
            response = web.json_response(error.status(), status=error.code)
        except web.HTTPException as error:
            refused = ApiError(error.status, error.reason.replace(" ", ""), error.reason)
            response = web.json_response(refused.status(), status=error.status)
        except KubeError as error:
            log.warning("the API server could not be asked: %s", error)
            failed = ApiError(503, "ServiceUnavailable", "the API server could not be asked")
            response = web.json_response(failed.status(), status=503)
        except Exception:
            log.exception("a request failed by a defect")
            failed = ApiError(500, "InternalError", "internal error")
            response = web.json_response(failed.status(), status=500)
        # Never a text from the request: it would fill the memory of whoever keeps the metrics.
        resource = request.match_info.get("resource", "")
        label = resource if resource in discovery.METRICS else ""
        REQUESTS.labels(request.method, label, str(response.status)).inc()
        SECONDS.labels(label).observe(time.monotonic() - began)
        return response

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN:
            return await handler(request)
        user = await self._authenticator.user(self._peer(request), request.headers)
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if len(request.path) > LONGEST_PATH:
            raise ApiError(414, "RequestURITooLong", "the path is too long")
        access = _access(request)
        refusal = await self._authorizer.refusal(user, access)
        if refusal is not None:
            raise ApiError(403, "Forbidden", _forbidden(user, access, refusal))
        return await handler(request)

    # --- handlers -----------------------------------------------------------------------------
    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ready(self, _: web.Request) -> web.Response:
        if why := self._unready():
            return web.Response(status=503, text=f"{why}\n")
        return web.Response(text="ok")

    async def _groups(self, _: web.Request) -> web.Response:
        return web.json_response(discovery.group_list())

    async def _group(self, _: web.Request) -> web.Response:
        return web.json_response(discovery.group())

    async def _resources(self, _: web.Request) -> web.Response:
        return web.json_response(discovery.resource_list())

    async def _metric(self, request: web.Request) -> web.Response:
        match = request.match_info
        resource, namespace, metric = match["resource"], match["namespace"], match["metric"]
        readings = self._values.find(
            resource,
            namespace,
            match["name"],
            metric,
            labels=request.query.get("labelSelector", ""),
            series=request.query.get("metricLabelSelector", ""),
        )
        return web.json_response(value_list(resource, namespace, metric, readings))

    async def _bulk(self, _: web.Request) -> web.Response:
        return web.Response(body=json.dumps(self._signals()), content_type="application/json")


def _access(request: web.Request) -> Access:
    """Say what a request asks for, in the words of RBAC.

    A metric is asked for by the very names that its handler looks up, whatever their spelling in
    the URL. The signals are a resource as well: as a path below /apis they would be everybody's, by
    the role that lets all users discover APIs. Everything else is a path, and what is not there is
    nobody's business either.
    """
    match = request.match_info
    if "metric" in match:
        return ResourceAccess(
            verb="get",
            resource=match["resource"],
            subresource=match["metric"],
            namespace=match["namespace"],
            name=match["name"],
        )
    if request.path == SIGNALS:
        return ResourceAccess(verb="list", resource="signals")
    return PathAccess(request.method.lower(), request.path)


def _forbidden(user: User, access: Access, why: str) -> str:
    match access:
        case PathAccess():
            what = f'{access.verb} path "{access.path}"'
        case ResourceAccess():
            resource = "/".join(filter(None, (access.resource, access.subresource)))
            what = f'{access.verb} resource "{resource}" in API group "{access.group}"'
            if access.namespace:
                what += f' in the namespace "{access.namespace}"'
    return f'User "{user.name}" cannot {what}: {why}'
