"""pandas' frames and series as JSON values, for ``payload``: each column by itself, with its dtype.

    {"kind": "plain", "dtype": "<f8", "base64": …}           numbers, truth values, times without a zone: their bytes
    {"kind": "zoned", "dtype": "<M8[ns]", "zone": …, …}      times with one: their bytes in UTC
    {"kind": "masked", "dtype": "Int64", "values": […]}      pandas' own numbers, None where one is missing
    {"kind": "category", "codes": …, "categories": …, "ordered": …}
    {"kind": "range", "parts": [start, stop, step]}          an index that counts
    {"kind": "levels", "levels": [column, …]}                an index of several levels
    {"kind": "values", "dtype": "str", "values": […]}        all else, one by one

pandas is imported when it is needed, which is when somebody has made a frame.
"""

from __future__ import annotations

import base64
import re
import zoneinfo
from collections.abc import Callable
from typing import Any

_PLAIN = re.compile(r"[<>|=]?(?:[iufb][1248]|[mM]8\[(?:ns|us|ms|s)\])")
_MASKED = re.compile(r"U?Int(?:8|16|32|64)|Float(?:32|64)|boolean")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")
_MOST_COLUMNS = 10_000

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]
"""For the single values in it."""


def encode_frame(frame: Any, encode: Encode) -> dict[str, Any]:
    """A DataFrame. Raises TypeError, ValueError as ``encode`` does."""
    if frame.shape[1] > _MOST_COLUMNS:
        raise ValueError(f"a DataFrame of {frame.shape[1]:,} columns, and {_MOST_COLUMNS:,} are the most")
    columns = [_column(frame.iloc[:, number], encode) for number in range(frame.shape[1])]
    return {"columns": columns, "labels": _index(frame.columns, encode), "index": _index(frame.index, encode)}


def encode_series(series: Any, encode: Encode) -> dict[str, Any]:
    return {
        "column": _column(series, encode),
        "index": _index(series.index, encode),
        "name": encode(series.name),
    }


def decode_frame(value: Any, decode: Decode) -> Any:
    """Raises ValueError, TypeError, LookupError for what is no frame, ImportError where there is no pandas."""
    import pandas

    index, labels = _read_index(value["index"], decode), _read_index(value["labels"], decode)
    columns = {number: _read_column(column, decode) for number, column in enumerate(value["columns"])}
    if len(labels) != len(columns) or any(len(column) != len(index) for column in columns.values()):
        raise ValueError("a frame whose parts differ in length")
    frame = pandas.DataFrame({number: pandas.Series(column, index=index) for number, column in columns.items()}, index)
    frame.columns = labels
    return frame


def decode_series(value: Any, decode: Decode) -> Any:
    """As ``decode_frame``."""
    import pandas

    index, column = _read_index(value["index"], decode), _read_column(value["column"], decode)
    if len(index) != len(column):
        raise ValueError("a series whose parts differ in length")
    return pandas.Series(column, index=index, name=decode(value["name"]))


# --- columns ----------------------------------------------------------------------------------------------------------


def _column(values: Any, encode: Encode) -> dict[str, Any]:
    """A Series or an Index."""
    dtype = values.dtype
    name = str(dtype)
    if type(dtype).__name__ == "CategoricalDtype":
        codes = values.codes if hasattr(values, "codes") else values.cat.codes.to_numpy()
        categories = _column(dtype.categories, encode)
        return {
            "kind": "category",
            "codes": _raw(codes.astype("<i4")),
            "categories": categories,
            "ordered": dtype.ordered,
        }
    if type(dtype).__name__ == "DatetimeTZDtype":
        zone = str(dtype.tz) if isinstance(dtype.tz, zoneinfo.ZoneInfo) else "UTC"
        plain = (values.dt if hasattr(values, "dt") else values).tz_convert("UTC")
        plain = (plain.dt if hasattr(plain, "dt") else plain).tz_localize(None).to_numpy()
        return {"kind": "zoned", "dtype": plain.dtype.str, "zone": zone, "base64": _raw(plain)}
    if _MASKED.fullmatch(name):
        return {"kind": "masked", "dtype": name, "values": [None if v is _missing() else v.item() for v in values]}
    if _PLAIN.fullmatch(getattr(dtype, "str", "")):
        return {"kind": "plain", "dtype": dtype.str, "base64": _raw(values.to_numpy())}
    told = name if name in ("str", "string", "object") else "object"
    missing = told != "object"
    told_values = [None if missing and not isinstance(v, str) else encode(v) for v in values.astype(object).tolist()]
    return {"kind": "values", "dtype": told, "values": told_values}


def _missing() -> Any:
    import pandas

    return pandas.NA


def _raw(array: Any) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _read_column(told: Any, decode: Decode) -> Any:
    import pandas

    match told["kind"]:
        case "plain":
            return _array(told)
        case "zoned":
            if not _ZONE.fullmatch(told["zone"]):
                raise ValueError("no name of a time zone")
            zone = zoneinfo.ZoneInfo(told["zone"])
            return pandas.Series(_array(told)).dt.tz_localize("UTC").dt.tz_convert(zone).array
        case "masked" if _MASKED.fullmatch(told["dtype"]):
            if not all(value is None or type(value) in (int, float, bool) for value in told["values"]):
                raise ValueError("a column that holds what is no number")
            return pandas.array(told["values"], dtype=told["dtype"])
        case "category":
            codes = _array({"dtype": "<i4", "base64": told["codes"]})
            categories = pandas.Index(_read_column(told["categories"], decode))
            return pandas.Categorical.from_codes(codes, categories, ordered=bool(told["ordered"]))
        case "values" if told["dtype"] in ("str", "string", "object"):
            values = [decode(value) for value in told["values"]]
            if told["dtype"] != "object":
                return pandas.array(values, dtype=told["dtype"])
            made = pandas.Series([None] * len(values), dtype=object).to_numpy(copy=True)
            for place, value in enumerate(values):  # one by one: lists would be taken for more dimensions
                made[place] = value
            return pandas.Series(made, dtype=object).array
    raise ValueError("a column of an unknown kind")


def _array(told: Any) -> Any:
    import numpy

    if not _PLAIN.fullmatch(told["dtype"]):
        raise ValueError("a dtype that is not carried")
    return numpy.frombuffer(base64.b64decode(told["base64"], validate=True), dtype=told["dtype"]).copy()


# --- indexes ----------------------------------------------------------------------------------------------------------


def _index(index: Any, encode: Encode) -> dict[str, Any]:
    names = [encode(name) for name in index.names]
    if type(index).__name__ == "RangeIndex":
        told: dict[str, Any] = {"kind": "range", "parts": [index.start, index.stop, index.step]}
    elif index.nlevels > 1:
        levels = [_column(index.get_level_values(number), encode) for number in range(index.nlevels)]
        told = {"kind": "levels", "levels": levels}
    else:
        told = _column(index, encode)
    return told | {"names": names}


def _read_index(told: Any, decode: Decode) -> Any:
    import pandas

    names = [decode(name) for name in told["names"]]
    if told["kind"] == "range":
        start, stop, step = (int(part) for part in told["parts"])
        return pandas.RangeIndex(start, stop, step, name=names[0])
    if told["kind"] == "levels":
        return pandas.MultiIndex.from_arrays([_read_column(level, decode) for level in told["levels"]], names=names)
    column = _read_column(told, decode)
    return pandas.Index(column, name=names[0], dtype=object if told.get("dtype") == "object" else None)
