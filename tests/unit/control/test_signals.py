"""What the operator makes of the metrics server's answers over time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration
from pagoda.api.autoscaling import Capacity
from pagoda.autoscaling.server.bulk import PATH
from pagoda.controller.cache import ObjectCache
from pagoda.controller.queue import Key
from pagoda.controller.scaling import NO_SIGNALS
from pagoda.controller.signals import SignalSource
from pagoda.kube.client import KubeClient

from tests.builders import llmd

KEY = Key("default", "toy")
CAPACITY = Capacity(tokens_per_second=1000, revision="abc", changed_at=0)


class Fleet:
    """A metrics server's bulk answer behind an API server, a clock, and who looks."""

    def __init__(self, status: dict[str, Any] | None = None, **spec: Any) -> None:
        self.now = 1000.0
        self.news = 0
        self.served: float | None = None
        self.overload: str | None = ""
        self.answers = True
        self._parent = llmd(**spec)
        self._parent["status"] = status or {}
        self.source: SignalSource

    def run(self, script: Callable[["Fleet"], Awaitable[None]]) -> None:
        asyncio.run(self._run(script))

    async def look(self, after: float = 15.0) -> None:
        self.now += after
        await self.source.look()

    async def _run(self, script: Callable[["Fleet"], Awaitable[None]]) -> None:
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        cache = ObjectCache()
        cache.absorb("ADDED", self._parent)
        async with TestServer(app) as server:
            client = KubeClient(Configuration(host=str(server.make_url("")).rstrip("/")))
            self.source = SignalSource(
                client, cache, self._note, period=15.0, clock=lambda: self.now
            )
            try:
                await script(self)
            finally:
                await client.close()

    def _note(self, _: Key) -> None:
        self.news += 1

    async def _answer(self, _: web.Request) -> web.Response:
        if not self.answers:
            return web.json_response({"kind": "Status", "message": "no endpoints"}, status=503)
        item = {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "signals": {"served_tokens_per_second": {"value": self.served, "reason": ""}},
            "overload": self.overload,
            "saturated": [],
        }
        return web.json_response({"items": [item]})


def told(fleet: Fleet) -> tuple[int | None, str]:
    signals = fleet.source.of(KEY)
    return signals.served, signals.overload.name if signals.overload else ""


def test_what_is_served_is_told_without_autoscaling_too():
    async def script(fleet: Fleet) -> None:
        fleet.served = 100.4
        await fleet.look()
        assert told(fleet) == (100, "")
        fleet.served = 105.0
        await fleet.look(60)
        assert told(fleet) == (100, ""), "hardly another"
        assert fleet.news == 1
        fleet.served = 150.0
        await fleet.look()
        assert told(fleet) == (150, "")
        fleet.served = 200.0
        await fleet.look()
        assert told(fleet) == (150, ""), "too soon"

    Fleet().run(script)


@pytest.mark.parametrize("lull", ["", "RequestsWaiting"])
def test_an_overload_that_comes_and_goes_is_one(lull: str):
    async def script(fleet: Fleet) -> None:
        for _ in range(4):
            fleet.overload = "RequestsRefused"
            await fleet.look()
            fleet.overload = lull
            await fleet.look()
            assert told(fleet) == (None, "RequestsRefused")
        assert fleet.news == 1
        fleet.overload = ""
        await fleet.look(60)
        assert told(fleet) == (None, "")
        assert fleet.news == 2

    Fleet().run(script)


@pytest.mark.parametrize("spec", [{}, {"autoscaling": {"maxReplicas": 3}}])
def test_a_new_leader_goes_on_from_the_status(spec: dict[str, Any]):
    async def script(fleet: Fleet) -> None:
        assert told(fleet) == (100, "RequestsWaiting"), "before the first answer"
        assert fleet.source.of(KEY).capacity == CAPACITY
        fleet.served = 101.0
        await fleet.look()
        assert told(fleet) == (100, "RequestsWaiting"), "in the middle of it, perhaps"
        assert fleet.source.of(KEY).capacity == CAPACITY
        fleet.served = 150.0
        await fleet.look(60)
        assert told(fleet) == (150, "")

    status = {
        "tokensPerSecond": 100,
        "reason": "RequestsWaiting",
        "autoscaling": {"capacity": CAPACITY.model_dump(by_alias=True)},
    }
    Fleet(status, **spec).run(script)


def test_a_status_that_cannot_be_read_is_as_good_as_none():
    async def script(fleet: Fleet) -> None:
        assert fleet.source.of(KEY) == NO_SIGNALS

    Fleet({"autoscaling": {"capacity": {"tokensPerSecond": "many"}}}).run(script)


def test_one_of_the_same_name_starts_with_nothing():
    async def script(fleet: Fleet) -> None:
        fleet.served, fleet.overload = 100.0, "RequestsRefused"
        await fleet.look()
        fleet.source.forget(KEY)
        assert told(fleet) == (None, "")

    Fleet().run(script)


def test_silence_is_bridged_for_a_while_and_then_told_as_unknown():
    async def script(fleet: Fleet) -> None:
        fleet.served, fleet.overload = 100.0, "RequestsWaiting"
        await fleet.look()
        fleet.answers = False
        await fleet.look()
        await fleet.look()
        assert told(fleet) == (100, "RequestsWaiting")
        assert fleet.news == 1
        await fleet.look(60)
        assert told(fleet) == (None, "")
        assert fleet.news == 2
        fleet.answers = True
        await fleet.look()
        assert told(fleet) == (100, "RequestsWaiting")

    Fleet().run(script)


@pytest.mark.parametrize("overload", [None, "SomethingNew"])
def test_what_is_not_known_is_no_overload(overload: str | None):
    async def script(fleet: Fleet) -> None:
        fleet.overload = overload
        await fleet.look()
        assert told(fleet) == (None, "")

    Fleet().run(script)
