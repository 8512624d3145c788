"""Type hints of a tool as a model reads them: short names, and what the classes among them are made of."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

_DESCRIBED = 20  # classes in one docstring
_CARRIED = {("pandas", "DataFrame"), ("pandas", "Series"), ("numpy", "ndarray")}


def hint_text(hint: Any) -> str:
    """The hint without modules and without metadata: ``list[City]``, ``Literal['m', 'ft']``."""
    if isinstance(hint, str):
        return hint
    if typing.get_origin(hint) is typing.Annotated:
        return hint_text(typing.get_args(hint)[0])
    text = inspect.formatannotation(_bare(hint))
    parts = re.split(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", text)  # literals stay as they are
    return "".join(p if n % 2 else re.sub(r"\b(?:\w+\.)+(?=\w)", "", p) for n, p in enumerate(parts))


def _bare(hint: Any) -> Any:
    """The hint with the metadata of ``Annotated`` taken out, at every level where it can be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _bare(arguments[0])
    if not arguments or origin is typing.Literal or not hasattr(hint, "copy_with"):
        return hint
    return hint.copy_with(tuple(_bare(a) if not isinstance(a, list) else a for a in arguments))


def types_text(hints: Iterable[Any]) -> str:
    """What the dataclasses, models and enumerations in the hints consist of, one a line; empty where there are none."""
    lines: dict[type, str] = {}
    waiting = [hint for whole in hints for hint in _classes(whole)]
    while waiting and len(lines) < _DESCRIBED:
        found = waiting.pop(0)
        if found in lines:
            continue
        fields = _fields(found)
        if fields is not None:
            lines[found] = f"{found.__name__}: {{{', '.join(f'{n}: {hint_text(h)}' for n, h in fields.items())}}}"
            waiting += [inner for hint in fields.values() for inner in _classes(hint)]
        elif issubclass(found, enum.Enum):
            lines[found] = f"{found.__name__}: one of {', '.join(repr(member.value) for member in found)}"
    return "\n".join(lines.values())


def _classes(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _classes(inner)


def _fields(found: type) -> dict[str, Any] | None:
    """The fields of a class that goes as a dict, with their hints."""
    if issubclass(found, BaseModel):
        return {name: field.annotation for name, field in found.model_fields.items()}
    try:
        hints = typing.get_type_hints(found) if dataclasses.is_dataclass(found) or typing.is_typeddict(found) else None
    except (NameError, TypeError):
        hints = {}
    if hints is None or not dataclasses.is_dataclass(found):
        return hints
    return {field.name: hints.get(field.name, field.type) for field in dataclasses.fields(found)}


def refuse_foreign(schemas: Iterable[Any], error: Exception) -> None:
    """Raise ``error`` where pydantic's schemas hold a class that it knows nothing of and that is not carried either."""
    waiting = list(schemas)
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            found = schema.get("cls") if schema.get("type") == "is-instance" else None
            if isinstance(found, type):
                known = (found.__module__.partition(".")[0], found.__name__)
                if known not in _CARRIED and not hasattr(found, "__get_pydantic_core_schema__"):
                    raise error
            waiting += [inner for key, inner in schema.items() if key != "metadata"]
        elif isinstance(schema, list | tuple):
            waiting += schema
