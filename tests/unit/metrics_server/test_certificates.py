"""Certificates are replaced in steps of which none leaves a client without the right authority."""

import datetime

import pytest
from pagoda.autoscaling.server.certificates import Certificates, Pair, Rules, advance

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
RULES = Rules(hosts=("m.ns.svc",), life=90 * DAY, settle=datetime.timedelta(minutes=5))


def begun() -> Certificates:
    made = advance(None, RULES, START, b"")
    assert made is not None
    return made


def test_a_life() -> None:
    held = begun()
    assert held.current.serves(["m.ns.svc"])
    assert advance(held, RULES, START + 59 * DAY, held.bundle) is None

    at = START + 60 * DAY
    prepared = advance(held, RULES, at, held.bundle)
    assert prepared is not None
    assert prepared.current == held.current
    assert prepared.next is not None
    assert held.current.authority in prepared.bundle
    assert prepared.next.authority in prepared.bundle

    # Not before clients were told, and not before they had time to hear it.
    assert advance(prepared, RULES, at + DAY, held.bundle) is None
    assert advance(prepared, RULES, at + DAY / 1440, prepared.bundle) is None
    shown = advance(prepared, RULES, at + DAY, prepared.bundle)
    assert shown is not None
    assert shown.current == prepared.next
    assert shown.next is None
    assert held.current.authority in shown.bundle, "the other replica may still show the old one"
    assert advance(shown, RULES, at + DAY, shown.bundle) is None


def test_one_that_nobody_was_told_of_is_shown_when_the_old_one_ends() -> None:
    held = begun()
    prepared = advance(held, RULES, START + 60 * DAY, b"")
    assert prepared is not None
    shown = advance(prepared, RULES, START + 91 * DAY, b"")
    assert shown is not None
    assert shown.current == prepared.next


def test_other_names_and_ended_ones_are_made_anew() -> None:
    held = begun()
    for rules, at in ((Rules(hosts=("other.ns.svc",)), START), (RULES, START + 200 * DAY)):
        made = advance(held, rules, at, b"")
        assert made is not None
        assert made.current != held.current
        assert made.current.serves(rules.hosts)


def test_what_does_not_belong_together_is_refused() -> None:
    one, two = begun().current, begun().current
    assert Pair.parse(one.chain, one.key) == one
    for chain, key in ((one.chain, two.key), (one.authority, one.key), (b"", one.key)):
        with pytest.raises(ValueError, match=r"."):
            Pair.parse(chain, key)
