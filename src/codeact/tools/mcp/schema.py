"""JSON schemas of untrusted servers as Python: names, types, signatures, docstrings, and the check of arguments.

Whatever a schema says, what comes out is bounded in size and is Python that means no more than a signature: names are
identifiers, everything else is written with ``repr``.
"""

from __future__ import annotations

import inspect
import json
import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import SchemaError, validators
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from codeact.tools.mcp.results import short_text

_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_MAX_NAME = 60
_MAX_TYPE = 160  # characters of one rendered type
_MAX_DEFAULT = 100  # characters of one rendered default
_MAX_PARAMETERS = 100
_MAX_SCHEMA = 256 << 10  # bytes; a larger one is not checked here, only by its server
_MAX_DEPTH = 4
_MAX_LOOKS = 3000  # parts of one schema that are rendered
_MAX_DOC = 6000  # characters
_PROBLEMS = 5


@dataclass(frozen=True)
class Parameter:
    """``name`` is Python's, ``key`` the schema's. ``default`` is what the signature shows; None may mean: left out."""

    name: str
    key: str
    type: str
    required: bool
    default: object
    described: tuple[str, ...]

    @property
    def shown(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.required else f" = {self.default!r}")


def identifier(text: str, taken: Iterable[str] = ()) -> str:
    """A Python identifier that resembles ``text`` and is none of ``taken``."""
    plain = unicodedata.normalize("NFKC", text)
    name = re.sub(r"\W+", "_", plain, flags=re.ASCII)[:_MAX_NAME].strip("_") or "tool"
    if name[0].isdigit():
        name = f"_{name}"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        name += "_"
    return numbered(name, set(taken))


def numbered(name: str, taken: set[str]) -> str:
    """``name``, or with the first number at its end that makes it none of ``taken``."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


class Root:
    """A whole schema, and how much more of it is looked at: references can make a small one endless."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.left = _MAX_LOOKS


class Schema:
    """The schema of a tool's arguments."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.parameters = self._parameters()
        self.takes_more = bool(schema.get("additionalProperties")) or len(self.parameters) < len(properties_of(schema))
        """Whether it takes arguments beyond these, by the schema's names."""
        self._validator = _validator_of(schema)

    def _parameters(self) -> tuple[Parameter, ...]:
        """Required ones first."""
        required = self.schema.get("required")
        needed = set(filter(_is_text, required)) if isinstance(required, list) else set()
        found: list[Parameter] = []
        taken: set[str] = {"more"}
        root = Root(self.schema)
        for key, given in list(properties_of(self.schema).items())[:_MAX_PARAMETERS]:
            name = identifier(key, taken)
            taken.add(name)
            part = given if isinstance(given, dict) else {}
            default = part.get("default")
            if (
                not isinstance(default, str | int | float | bool | list | dict | None)
                or len(repr(default)) > _MAX_DEFAULT
            ):
                default = None
            kind = type_of(part, root)
            if key not in needed and default is None and not {"None", "Any"} & set(kind.split(" | ")):
                kind += " | None"
            found.append(Parameter(name, key, kind, key in needed, default, tuple(_described(part, root, 1))))
        return tuple(sorted(found, key=lambda parameter: not parameter.required))

    @property
    def signature(self) -> str:
        """As people and models read it: ``(*, query: str, limit: int = 10)``."""
        shown = [parameter.shown for parameter in self.parameters]
        more = ["**more"] if self.takes_more else []
        return f"({', '.join((['*'] if shown else []) + shown + more)})"

    def given(self, arguments: Mapping[str, object]) -> dict[str, object]:
        """The arguments without those that are only the stub's defaults."""
        defaults = {p.key: p.default for p in self.parameters if not p.required}
        return {
            key: value
            for key, value in arguments.items()
            if key not in defaults or type(value) is not type(defaults[key]) or value != defaults[key]
        }

    def problems(self, arguments: Mapping[str, object]) -> str:
        """What is wrong with the arguments, for a model to repair; empty where nothing is."""
        if self._validator is None:
            return ""
        names = {parameter.key: parameter.name for parameter in self.parameters}
        told: list[str] = []
        try:
            for error in self._validator.iter_errors(arguments):
                if len(told) == _PROBLEMS:
                    told.append("…")
                    break
                path = [str(part) for part in error.absolute_path]
                place = ".".join([names.get(path[0], path[0]), *path[1:]]) if path else "call"
                told.append(f"{place}: {short_text(error.message, 300)}")
        except (Unresolvable, RecursionError, ValueError, TypeError):
            return ""  # the schema cannot be followed: its server will say what it thinks of the arguments
        return "; ".join(told)


def doc_of(described: str, parameters: tuple[Parameter, ...], output: Mapping[str, Any] | None, origin: str) -> str:
    """The docstring."""
    lines = [short_text(inspect.cleandoc(described), 2000) or "No description."]
    if parameters:
        lines += ["", "Args:"]
        for parameter in parameters:
            first, *rest = parameter.described or ("",)
            lines.append(f"    {parameter.name} ({parameter.type}): {first}".rstrip(": "))
            lines += [f"    {line}" for line in rest]
    if output is not None:
        root = Root(output)
        fields = list(_described(unwrapped(output), root, 1))
        lines += ["", "Returns:", f"    {type_of(unwrapped(output), root)}: {fields[0]}".rstrip(": "), *fields[1:]]
    lines += ["", origin]
    text = "\n".join(lines)
    return text if len(text) <= _MAX_DOC else f"{text[:_MAX_DOC]}…\n\n{origin}"


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def unwrapped(output: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a result: SDKs wrap what is no object as ``{"result": …}``, which we take off again."""
    properties = output.get("properties")
    if isinstance(properties, dict) and set(properties) == {"result"} and isinstance(properties["result"], dict):
        return properties["result"]
    return output


# --- types --------------------------------------------------------------------------------------------------------


def type_of(part: Any, root: Root, depth: int = 0) -> str:
    """The Python type of a schema, as an annotation shows it. Never longer than a line."""
    shown = _type(part, root, depth)
    return shown if len(shown) <= _MAX_TYPE else _type(part, root, _MAX_DEPTH)


def _type(part: Any, root: Root, depth: int) -> str:
    root.left -= 1
    part = _resolved(part, root)
    if not isinstance(part, dict) or not part or root.left < 0:
        return "Any"
    values = part["enum"] if isinstance(part.get("enum"), list) else [part["const"]] if "const" in part else None
    if values is not None and depth < _MAX_DEPTH:
        if values and all(isinstance(value, str | int | bool | None) for value in values):
            return f"Literal[{', '.join(repr(value) for value in values)}]"
        return "Any"
    for key in ("anyOf", "oneOf"):
        if isinstance(part.get(key), list) and depth < _MAX_DEPTH:
            return _union(type_of(option, root, depth + 1) for option in part[key])
    kind = part.get("type")
    if isinstance(kind, list):
        return _union(type_of({**part, "type": one}, root, depth + 1) for one in kind if _is_text(one))
    if kind == "array":
        items = type_of(part.get("items"), root, depth + 1) if depth < _MAX_DEPTH else "Any"
        return "list" if items == "Any" else f"list[{items}]"
    if kind == "object" or (kind is None and "properties" in part):
        values = part.get("additionalProperties")
        if isinstance(values, dict) and values and "properties" not in part and depth < _MAX_DEPTH:
            return f"dict[str, {type_of(values, root, depth + 1)}]"
        return "dict"
    return _SIMPLE.get(kind, "Any") if isinstance(kind, str) else "Any"


def _union(types: Iterable[str]) -> str:
    kinds = list(dict.fromkeys(types))
    return "Any" if "Any" in kinds or not kinds else " | ".join(kinds)


def _resolved(part: Any, root: Root) -> Any:
    """The schema that a reference within the document points to."""
    for _ in range(10):
        if not isinstance(part, dict) or not isinstance(part.get("$ref"), str):
            return part
        found: Any = root.schema
        if not part["$ref"].startswith("#"):
            return {}
        for step in part["$ref"].removeprefix("#").split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        part = found
    return {}


def _described(part: Any, root: Root, depth: int) -> Iterable[str]:
    """What a schema says of a value: its description, and a line for each field of an object in it."""
    outer = part
    part = _resolved(part, root)
    if not isinstance(part, dict):
        yield ""
        return
    said = outer.get("description", part.get("description"))
    yield " ".join(short_text(said, 300).split()) if _is_text(said) else ""
    inner = _resolved(part.get("items"), root) if part.get("type") == "array" else part
    for option in inner.get("anyOf", ()) if isinstance(inner, dict) and isinstance(inner.get("anyOf"), list) else ():
        candidate = _resolved(option, root)
        if isinstance(candidate, dict) and isinstance(candidate.get("properties"), dict):
            inner = candidate
            break
    properties = inner.get("properties") if isinstance(inner, dict) else None
    if not isinstance(properties, dict) or depth >= _MAX_DEPTH or root.left < 0:
        return
    needed = inner.get("required")
    for key, field in list(properties.items())[:_MAX_PARAMETERS]:
        if root.left < 0:
            yield f"{'    ' * depth}- …"
            return
        first, *rest = _described(field, root, depth + 1)
        optional = "" if isinstance(needed, list) and key in needed else ", optional"
        yield f"{'    ' * depth}- {short_text(key, _MAX_NAME)!r} ({type_of(field, root)}{optional}): {first}".rstrip(
            ": "
        )
        yield from rest


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# --- the check of arguments ---------------------------------------------------------------------------------------


def _validator_of(schema: Mapping[str, Any]) -> Validator | None:
    """A checker, or None for a schema that is broken or huge.

    Patterns are left to the server: a regular expression of an untrusted server, on text that a model chose, can take
    for ever here. References out of the document are not followed.
    """
    try:
        if len(json.dumps(schema)) > _MAX_SCHEMA:
            return None
        plain = validators.validator_for(schema, default=validators.Draft202012Validator)
        plain.check_schema(schema)
    except (SchemaError, RecursionError, ValueError, TypeError):
        return None
    skipped = {"pattern": _nothing, "patternProperties": _nothing}
    if "patternProperties" in json.dumps(schema):
        skipped["additionalProperties"] = skipped["unevaluatedProperties"] = _nothing  # they ask what patterns took
    checker: Any = validators.extend(plain, validators=skipped)  # type: ignore[no-untyped-call]
    validator: Validator = checker(schema, registry=Registry())
    return validator


def _nothing(validator: object, value: object, instance: object, schema: object) -> Iterable[Any]:
    return ()
