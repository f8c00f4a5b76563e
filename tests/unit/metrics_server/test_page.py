"""The quick reader of metrics pages says what the whole parser says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagoda.autoscaling.samples import PodSample
from pagoda.autoscaling.scraping.page import Series, Table
from pagoda.engines import ENGINES
from prometheus_client.parser import text_string_to_metric_families

NAME = "vllm:num_requests_waiting"
names = st.sampled_from([NAME, f"{NAME}_by_reason", "vllm:num_requests", "other", "a_" + NAME])
labels = st.dictionaries(
    st.sampled_from(["engine", "model_name", "reason"]),
    st.text(st.sampled_from('ab"\\{} ,=\n#'), max_size=8),
    max_size=3,
)
values = st.sampled_from(["0", "1.0", "12.5", "1e+06", "+Inf", "3"])
pages = st.dictionaries(names, st.lists(st.tuples(labels, values), min_size=1, max_size=4))


def written(families: dict[str, list[tuple[dict[str, str], str]]]) -> str:
    """A page, as prometheus_client writes one."""
    lines = []
    for name, series in families.items():
        lines.append(f"# HELP {name} {NAME} 7 in a text is none.")
        lines.append(f"# TYPE {name} gauge")
        for given_labels, value in series:
            inside = ",".join(f'{k}="{_escaped(v)}"' for k, v in given_labels.items())
            lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@given(pages)
def test_finds_what_a_whole_parser_finds(
    families: dict[str, list[tuple[dict[str, str], str]]],
) -> None:
    page = written(families)
    expected = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == NAME
    ]
    assert Series.parse(NAME).values(page.encode()) == expected


@given(st.text(max_size=10), st.text(st.sampled_from('ab"\\}'), max_size=4))
def test_series_by_label(reason: str, other: str) -> None:
    page = written({NAME: [({"reason": "full"}, "3"), ({"reason": other, "x": "full"}, "4")]})
    assert Series.parse(f'{NAME}{{reason="full"}}').values(page.encode()) == [3.0]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (f"{NAME} 1", [1.0]),  # the first line, without an end
        (f"x 1\n{NAME}\t2\n", [2.0]),
        (f'{NAME}{{a="b"}} 3 1700000000000\n', [3.0]),  # with a timestamp
        (f"{NAME}_total 4\n{NAME} 5\n", [5.0]),
        (f"a{NAME} 6\n", []),
        ("", []),
    ],
)
def test_forms(page: str, expected: list[float]) -> None:
    assert Series.parse(NAME).values(page.encode()) == expected


def test_broken_pages_are_errors() -> None:
    for page in (f"{NAME} many\n", f"{NAME} \n", f'{NAME}{{a="b 1\n'):
        with pytest.raises(ValueError, match=r"."):
            Series.parse(NAME).values(page.encode())


def test_newest_name_counts_and_shares_are_averaged() -> None:
    table = Table(
        {"usage": ("new", "old"), "tokens": ("tokens_total",), "waiting": ("waiting",)},
        averaged=frozenset({"usage"}),
    )
    page = (
        b'new{e="0"} 0.5\nnew{e="1"} 0.25\nold 0.9\ntokens_total{e="0"} 3\ntokens_total{e="1"} 4\n'
    )
    assert table.read(page) == {"usage": 0.375, "tokens": 7.0}
    assert table.read(b"old 0.9\n") == {"usage": 0.9}
    assert table.read(b"old NaN\n") == {}, "no number is not zero"


def test_a_counter_without_events_is_zero_and_a_missing_one_is_not() -> None:
    table = Table({"rejected": ("rejections_total",)}, averaged=frozenset())
    assert table.read(b"x 1\n# TYPE rejections_total counter\n") == {"rejected": 0.0}
    assert table.read(b"x 1\n# TYPE rejections_total gauge\n") == {}
    assert table.read(b"x 1\n") == {}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_engines_tell_what_the_law_asks(engine: object) -> None:
    metrics = engine.metrics  # type: ignore[attr-defined]
    asked = set(PodSample.__dataclass_fields__) - {"time"}
    assert set(metrics) == asked
    Table(metrics, averaged=frozenset())
    assert math.isfinite(PodSample(time=0.0, **dict.fromkeys(asked, 1.0)).time)
