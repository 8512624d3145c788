"""Values as JSON and back, and what an enemy sends in their place."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from codeact.payload import DEEPEST, LARGEST, MARK, Record, call_text, decode, dumps, encode, record, shown

BERLIN = datetime.timezone(datetime.timedelta(hours=1))


def carried(value: object) -> Any:
    return decode(json.loads(dumps(value)))


plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(allow_nan=False), st.binary(), st.dates(),
    st.text(st.characters(exclude_categories=())), st.datetimes(), st.times(), st.timedeltas(), st.uuids(),
    st.decimals(allow_nan=False),
)  # fmt: skip
keys = st.one_of(st.text(), st.integers(), st.just(MARK), st.dates(), st.tuples(st.integers()))
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.lists(inner).map(tuple), max_leaves=20
)


@given(values)
def test_what_is_carried_arrives_as_it_was(value: object) -> None:
    assert carried(value) == value
    assert shown(encode(value)).isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from([MARK, "items", "iso", "base64", "fields", "name", "columns", "x"]), inner
            )
            | st.fixed_dictionaries(
                {
                    MARK: st.sampled_from(
                        ["dict", "set", "bytes", "date", "record", "frame", "series", "timedelta", "float"]
                    ),
                    "items": inner,
                    "base64": inner,
                    "columns": inner,
                    "index": inner,
                    "parts": inner,
                }
            )
        ),
        max_leaves=15,
    )
)
def test_anything_else_is_a_value_error(value: Any) -> None:
    try:
        decode(value)
    except ValueError:
        pass
    assert len(shown(value)) < 3000


class Unit(enum.Enum):
    METRES = "m"


@dataclasses.dataclass
class Point:
    x: int
    at: datetime.date | None = None


class City(BaseModel):
    name: str
    home: tuple[int, int] = (0, 0)


def test_what_arrives_as_something_like_it() -> None:
    assert carried([Unit.METRES, Path("/a"), np.int64(3), np.arange(3), np.array([True])]) == [
        "m",
        "/a",
        3,
        [0, 1, 2],
        [True],
    ]
    assert math.isnan(carried(float("nan"))) and carried(-math.inf) == -math.inf
    assert carried(datetime.datetime(2020, 1, 1, tzinfo=BERLIN)).utcoffset() == datetime.timedelta(hours=1)
    assert carried([pd.NaT, pd.NA, pd.Timestamp("2020-01-02")]) == [None, None, datetime.datetime(2020, 1, 2)]
    assert repr(carried(Point(1, datetime.date(2020, 1, 2)))) == "Point(x=1, at=datetime.date(2020, 1, 2))"
    assert repr(carried(City(name="Ulm", home=(1, 2)))) == "City(name='Ulm', home=(1, 2))"


def test_a_record_is_a_dict_with_attributes() -> None:
    made = carried(record("City", {"name": "Ulm", "items": 3}))
    assert isinstance(made, Record) and made == {"name": "Ulm", "items": 3} and made.name == "Ulm"
    assert made["items"] == 3 and list(made.items()) == [("name", "Ulm"), ("items", 3)] and "name" in dir(made)
    assert json.loads(json.dumps(made)) == {"name": "Ulm", "items": 3} and pd.DataFrame([made]).shape == (1, 2)
    with pytest.raises(AttributeError, match="City has no field 'age'; it has name, items"):
        made.age  # noqa: B018


@pytest.mark.parametrize("value", [object(), print, 1j, [iter(())], pd.Period("2020"), datetime.UTC, {"a": object()}])
def test_what_is_not_carried_is_named(value: object) -> None:
    with pytest.raises(TypeError, match="not carried"):
        dumps(value)


def test_bounds() -> None:
    with pytest.raises(ValueError, match="8 MiB is the most"):
        dumps("x" * LARGEST)
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match=f"more than {DEEPEST} levels"):
        dumps(loop)
    deep: Any = ()
    for _ in range(DEEPEST - 1):
        deep = {1: (deep,)} if len(json.dumps(encode(deep))) % 2 else (deep,)
        if len(json.dumps(encode(deep))) > 2000:
            break
    assert carried(deep) == deep
    hostile: Any = []
    for _ in range(100_000):
        hostile = [hostile]
    with pytest.raises(ValueError, match="too deeply"):
        decode(hostile)


FRAME = pd.DataFrame(
    {
        "i": [1, 2, 3],
        "small": np.array([1, 2, 3], dtype="uint8"),
        "f": [1.0, np.nan, math.inf],
        "s": ["a", None, "c"],
        "o": pd.Series([1, "x", [1, 2]], dtype=object),
        "t": pd.date_range("2020", periods=3),
        "z": pd.date_range("2020", periods=3, tz="Europe/Berlin"),
        "c": pd.Categorical(["a", "b", "a"], ordered=True),
        "n": pd.array([1, None, 3], dtype="Int64"),
        "b": [True, False, True],
        "d": pd.to_timedelta([1, 2, 3], unit="s"),
        "m": pd.array([True, None, False], dtype="boolean"),
        "w": pd.array(["a", None, "b"], dtype="string"),
    }
)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.set_index("s"),
        FRAME.set_index(["i", "s"]),
        FRAME.set_index("z"),
        FRAME.set_index("c"),
        FRAME.groupby("b").agg({"i": ["sum", "mean"], "f": ["max"]}),
        FRAME[["i", "i"]],
        FRAME.iloc[:0],
        FRAME[["i", "small"]].describe(),
        pd.DataFrame(),
        pd.DataFrame({1: [1], "a": [2]}),
    ],
    ids=range(11),
)
def test_frames_keep_their_types(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(carried(frame), frame, check_freq=False)


def test_series_keep_their_types() -> None:
    for name in FRAME:
        pd.testing.assert_series_equal(carried(FRAME[name]), FRAME[name])
    counts = FRAME["b"].value_counts()
    pd.testing.assert_series_equal(carried(counts), counts)


def test_a_frame_of_numbers_is_compact() -> None:
    assert len(dumps(pd.DataFrame(np.random.default_rng(0).random((1000, 10))))) < 12 * 10_000


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["columns"][0].update(dtype="O"),
        lambda f: f["columns"][0].update(dtype="<V8"),
        lambda f: f["columns"][0].update(base64="AAAA"),
        lambda f: f["columns"][6].update(zone="dateutil//etc/passwd"),
        lambda f: f["columns"][6].update(zone="../../../etc/passwd"),
        lambda f: f["columns"][7]["categories"].update(kind="nothing"),
        lambda f: f["columns"].pop(),
        lambda f: f["index"].update(parts=[0, 10**15, 1]),
        lambda f: f.pop("index"),
        lambda f: f["columns"][8].update(values=[{}, [], "x"]),
    ],
    ids=range(10),
)
def test_frames_that_were_tampered_with(change: Any) -> None:
    told = encode(FRAME[["i", "small", "f", "s", "o", "t", "z", "c", "n"]])
    change(told)
    with pytest.raises(ValueError):
        decode(told)


def test_what_is_shown_hides_nothing() -> None:
    arguments = encode({"to": "Ann\u202e\x1b[31m\r", "sum": decimal.Decimal("5.10"), "id": uuid.UUID(int=1)})
    assert call_text("pay", arguments, 100) == (
        "pay(to='Ann\\u202e\\x1b[31m\\r', sum=Decimal('5.10'), id=UUID('00000000-0000-0000-0000-000000000001'))"
    )
    assert shown("x" * 5000, 100) == f"'{'x' * 49} […4,902 characters are not shown…] {'x' * 49}'"
    assert shown(encode(FRAME)).startswith("3×13 DataFrame with the columns ['i', 'small',")
    assert shown({MARK: "nonsense"}) == f'{{"{MARK}": "nonsense"}}'
