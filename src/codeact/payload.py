"""Values of Python as JSON and back: what a call of a host tool carries between the sandbox and this process.

Both sides use it. What JSON has goes as it is. All else is an object with the key ``$codeact``: its kind, and fields:

    float (inf, nan) · text (halves of surrogate pairs) · bytes · datetime · date · time · timedelta · decimal · uuid ·
    dict (keys that are no text) · tuple · set · record (a dataclass, a pydantic model) · frame · series (pandas)

Enum members go as their value, numpy's arrays as lists, paths as text. A frame goes column by column, numbers and times
as their bytes, so that every dtype is kept; its index and column labels too. Nothing is ever pickled or evaluated.

What is decoded may come from an enemy. It is bounded by the size of the text it comes in (the caller's part), by
``DEEPEST``, and every kind is rebuilt from plain checked fields. Not carried: the name of a datetime's zone (its offset
is), the frequency of an index, ``attrs``.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from codeact import frames

MARK = "$codeact"
LARGEST = 8 << 20
"""Characters of JSON that one call's arguments, or one result, may take."""

DEEPEST = 50
"""Levels of nesting of a value. As JSON it has at most three times as many."""


class Record(dict[str, Any]):
    """A dataclass or a pydantic model from the other side: a dict whose items can be read as attributes, too.

    A field that is called like a method of dict (``items``) is there as an item only.
    """

    _kind = "Record"

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self._kind} has no field {name!r}; it has {', '.join(self) or 'none'}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self if isinstance(name, str))]

    def __repr__(self) -> str:
        return f"{self._kind}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def record(kind: str, fields: Mapping[str, Any]) -> Record:
    """A Record that calls itself ``kind``."""
    made = Record(fields)
    made.__dict__["_kind"] = kind
    return made


def dumps(value: object) -> str:
    """The value as JSON text. Raises ValueError where it is too large or nested too deeply, TypeError for its type."""
    text = json.dumps(encode(value), separators=(",", ":"), allow_nan=False)
    if len(text) > LARGEST:
        raise ValueError(f"{len(text) / 2**20:.1f} MiB as JSON, and {LARGEST >> 20} MiB is the most: send less")
    return text


def encode(value: object, depth: int = 0) -> Any:
    """The value as JSON values. Raises TypeError for a type that is not carried, ValueError for too deep a nesting."""
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} levels deep, or in itself")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, enum.Enum):
        return encode(value.value, depth + 1)
    for kind, encoder in _ENCODERS:
        if isinstance(value, kind):
            return encoder(value, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _tagged("record", name=type(value).__name__, fields=_items(fields, depth + 1))
    module = type(value).__module__.partition(".")[0]
    if module == "pandas":
        return _encode_pandas(value, depth + 1)
    if module == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), depth + 1)
    if hasattr(type(value), "__pydantic_fields__") and hasattr(value, "model_dump"):
        return _tagged("record", name=type(value).__name__, fields=_items(value.model_dump(), depth + 1))
    raise TypeError(f"a value of the type {type(value).__name__} is not carried between the sandbox and a host tool")


def too_deep(value: Any) -> bool:
    """Whether JSON values are nested more deeply than anything that was encoded."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > 3 * DEEPEST + 10:
            return True
        nested = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, list | dict))
        level = [inner for items in nested for inner in items if isinstance(inner, list | dict)]
    return False


def decode(value: Any, depth: int = 0) -> Any:
    """What was encoded. Raises ValueError for what is not of this form."""
    if depth == 0 and too_deep(value):
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [decode(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {key: decode(item, depth + 1) for key, item in value.items()}
    decoder = _DECODERS.get(value[MARK]) if isinstance(value[MARK], str) else None
    if decoder is None:
        raise ValueError(f"a value of the unknown kind {str(value[MARK])[:40]!r}")
    try:
        return decoder(value, depth + 1)
    except ValueError:
        raise
    except (KeyError, TypeError, AttributeError, ArithmeticError, LookupError, ImportError) as error:
        raise ValueError(f"a {value[MARK]} that cannot be read: {type(error).__name__}: {error}") from error


def shown(value: Any, limit: int = 2000) -> str:
    """Encoded JSON values as a person reads them, on one line: every character that does not print is escaped.

    Longer texts are cut in the middle, and say so. Never raises.
    """
    try:
        found = decode(value)
        text = f"{found.shape[0]}×{found.shape[1]} DataFrame" if _is_frame(found) else ""
        text = text and f"{text} with the columns {list(found.columns)!r}"
        text = text or repr(found)
    except (ValueError, RecursionError):
        text = json.dumps(value)
    text = _printable(text)
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} […{len(text) - 2 * half:,} characters are not shown…] {text[-half:]}"
    return text


def call_text(name: str, arguments: Mapping[str, Any], limit: int) -> str:
    """A call as a person reads it, on one line: ``pay(to='Ann', amount=5)``. ``limit``: characters of one argument."""
    listed = ", ".join(f"{_printable(str(key)[:200])}={shown(value, limit)}" for key, value in arguments.items())
    return f"{_printable(name)}({listed})"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_frame(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "DataFrame"


def _tagged(kind: str, **fields: Any) -> dict[str, Any]:
    return {MARK: kind, **fields}


# --- plain values ---------------------------------------------------------------------------------------------------


def _encode_text(value: str, depth: int) -> Any:
    value = str(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        return _tagged("text", base64=_base64(value.encode("utf-8", "surrogatepass")))
    return value


def _encode_float(value: float, depth: int) -> Any:
    return float(value) if math.isfinite(value) else _tagged("float", value=repr(float(value)))


def _items(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {str(key): encode(item, depth) for key, item in value.items()}


def _encode_mapping(value: Mapping[Any, Any], depth: int) -> Any:
    if all(type(key) is str and key.isprintable() for key in value) and MARK not in value:
        return _items(value, depth)
    return _tagged("dict", items=[[encode(key, depth), encode(item, depth)] for key, item in value.items()])


def _list(value: Any, depth: int) -> list[Any]:
    return [encode(item, depth) for item in value]


_ENCODERS: list[tuple[Any, Callable[[Any, int], Any]]] = [
    (str, _encode_text),
    (int, lambda value, depth: int(value)),
    (float, _encode_float),
    (list, _list),
    (Record, lambda value, depth: _tagged("record", name=value._kind, fields=_items(value, depth))),
    (dict, _encode_mapping),
    (tuple, lambda value, depth: _tagged("tuple", items=_list(value, depth))),
    ((set, frozenset), lambda value, depth: _tagged("set", items=_list(value, depth))),
    ((bytes, bytearray, memoryview), lambda value, depth: _tagged("bytes", base64=_base64(bytes(value)))),
    # pandas' Timestamp and Timedelta are such, too
    (datetime.datetime, lambda value, depth: _encode_datetime(value)),
    (datetime.date, lambda value, depth: _tagged("date", iso=value.isoformat())),
    (datetime.time, lambda value, depth: _tagged("time", iso=value.isoformat())),
    (
        datetime.timedelta,
        lambda value, depth: _tagged("timedelta", parts=[value.days, value.seconds, value.microseconds]),
    ),
    (decimal.Decimal, lambda value, depth: _tagged("decimal", text=str(value))),
    (uuid.UUID, lambda value, depth: _tagged("uuid", text=str(value))),
    (pathlib.PurePath, lambda value, depth: _encode_text(str(value), depth)),
]


def _encode_datetime(value: Any) -> Any:
    if type(value).__name__ == "NaTType":
        return None
    if hasattr(value, "to_pydatetime"):  # pandas' own, to the microsecond
        value = value.to_pydatetime(warn=False)
    return _tagged("datetime", iso=value.isoformat())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(field: str) -> bytes:
    return base64.b64decode(field, validate=True)


def _text_field(value: object) -> str:
    if not isinstance(value, str) or len(value) > 10_000:
        raise ValueError("a text that is none, or too long")
    return value


def _decode_record(value: Any, depth: int) -> Record:
    name = _text_field(value["name"])
    fields = {str(key): decode(item, depth) for key, item in value["fields"].items()}
    return record(name if name.isidentifier() else "Record", fields)


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "float": lambda value, depth: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value["value"]],
    "text": lambda value, depth: _bytes(value["base64"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda value, depth: _bytes(value["base64"]),
    "dict": lambda value, depth: {decode(key, depth): decode(item, depth) for key, item in value["items"]},
    "tuple": lambda value, depth: tuple(decode(list(value["items"]), depth)),
    "set": lambda value, depth: set(decode(list(value["items"]), depth)),
    "datetime": lambda value, depth: datetime.datetime.fromisoformat(_text_field(value["iso"])),
    "date": lambda value, depth: datetime.date.fromisoformat(_text_field(value["iso"])),
    "time": lambda value, depth: datetime.time.fromisoformat(_text_field(value["iso"])),
    "timedelta": lambda value, depth: datetime.timedelta(*(int(part) for part in value["parts"][:3])),
    "decimal": lambda value, depth: decimal.Decimal(_text_field(value["text"])),
    "uuid": lambda value, depth: uuid.UUID(_text_field(value["text"])),
    "record": _decode_record,
    "frame": lambda value, depth: frames.decode_frame(value, lambda inner: decode(inner, depth)),
    "series": lambda value, depth: frames.decode_series(value, lambda inner: decode(inner, depth)),
}


def _encode_pandas(value: Any, depth: int) -> Any:
    pandas = sys.modules["pandas"]
    if value is pandas.NA or value is pandas.NaT:
        return None
    if isinstance(value, pandas.DataFrame):
        return _tagged("frame", **frames.encode_frame(value, lambda inner: encode(inner, depth)))
    if isinstance(value, pandas.Series):
        return _tagged("series", **frames.encode_series(value, lambda inner: encode(inner, depth)))
    if isinstance(value, pandas.Index | pandas.api.extensions.ExtensionArray):
        return encode(value.tolist(), depth)
    raise TypeError(f"a {type(value).__name__} of pandas is not carried; a DataFrame and a Series are")
