"""Quantities, selectors and users in the forms of the Kubernetes API."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pagoda.autoscaling.server.answers import LARGEST, quantity
from pagoda.autoscaling.server.identity import FrontProxy, User
from pagoda.autoscaling.server.recent import Recent
from pagoda.autoscaling.server.selectors import parse
from pagoda.render.quantity import parse_quantity


@given(st.floats(min_value=0, max_value=1e12))
def test_quantities_keep_the_value_to_a_thousandth(value: float) -> None:
    text = quantity(value)
    assert abs(float(parse_quantity(text)) - value) <= 0.0005 + value * 1e-12
    assert text.removesuffix("m").isdigit()


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (3.0, "3"), (0.812, "812m"), (1.5, "1500m")])
def test_quantity(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), LARGEST * 2])
def test_what_is_no_quantity(value: float) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity(value)


@pytest.mark.parametrize(
    ("selector", "fitting", "other"),
    [
        ("a=b", {"a": "b"}, {"a": "c"}),
        ("a==b,c=d", {"a": "b", "c": "d"}, {"a": "b"}),
        ("a!=b", {}, {"a": "b"}),
        ("a", {"a": ""}, {}),
        ("!a", {}, {"a": "x"}),
        ("a in (b, c)", {"a": "c"}, {"a": "d"}),
        ("a notin (b,c)", {}, {"a": "b"}),
        ("x.io/a=", {"x.io/a": ""}, {"x.io/a": "b"}),
        ("a in (b),!c , d", {"a": "b", "d": ""}, {"a": "b", "d": "", "c": ""}),
    ],
)
def test_selectors(selector: str, fitting: dict[str, str], other: dict[str, str]) -> None:
    assert parse(selector).fits(fitting)
    assert not parse(selector).fits(other)
    assert parse("").fits(other)


@pytest.mark.parametrize("text", ["=", "a=b c", "a in b", "a,", "a=b=c", "!", "(a)", "a in (b"])
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match="no label selector"):
        parse(text)


def config(**data: str) -> dict[str, object]:
    given_data = {
        "requestheader-client-ca-file": "PEM",
        "requestheader-allowed-names": '["proxy"]',
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-uid-headers": '["X-Remote-Uid"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }
    return {"data": given_data | {key.replace("_", "-"): value for key, value in data.items()}}


def test_users_of_the_front_proxy() -> None:
    proxy = FrontProxy.from_config_map(config())
    assert proxy is not None
    headers = CIMultiDict(
        [
            ("x-remote-user", "jane"),
            ("X-Remote-Uid", "7"),
            ("X-Remote-Group", "a"),
            ("X-Remote-Group", "b"),
            ("X-Remote-Extra-Acme.com%2fProject", "one"),
            ("X-Remote-Extra-Acme.com%2fproject", "two"),
        ]
    )
    user = proxy.user(headers)
    assert user == User("jane", "7", ("a", "b"), (("acme.com/project", ("one", "two")),))
    assert proxy.user(CIMultiDict()) is None
    assert proxy.trusts("proxy")
    assert not proxy.trusts("other")
    anyone = FrontProxy.from_config_map(config(requestheader_allowed_names="[]"))
    assert anyone is not None
    assert anyone.trusts("other")
    assert FrontProxy.from_config_map(config(requestheader_client_ca_file="")) is None
    with pytest.raises(ValueError, match="allowed-names"):
        FrontProxy.from_config_map(config(requestheader_allowed_names='"proxy"'))


def test_the_group_of_all_who_are_known() -> None:
    assert User("jane").with_authenticated().groups == ("system:authenticated",)
    for user in (
        User("system:anonymous"),
        User("x", groups=("system:unauthenticated",)),
        User("x", groups=("system:authenticated",)),
    ):
        assert user.with_authenticated() == user


async def test_answers_are_shared_kept_and_forgotten() -> None:
    now = 0.0
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return asked

    recent: Recent[str, int] = Recent(10, most=2, clock=lambda: now)
    assert await asyncio.gather(*(recent.get("a", ask) for _ in range(5))) == [1] * 5
    now = 9.9
    assert await recent.get("a", ask) == 1
    now = 10.1
    assert await recent.get("a", ask) == 2
    await recent.get("b", ask)
    await recent.get("c", ask)
    assert await recent.get("a", ask) == 5, "the oldest of three gave way"


async def test_failures_are_not_kept() -> None:
    async def fail() -> int:
        raise RuntimeError

    async def answer() -> int:
        return 1

    recent: Recent[str, int] = Recent(10)
    with pytest.raises(RuntimeError):
        await recent.get("a", fail)
    assert await recent.get("a", answer) == 1
