"""Host tools as the code in the sandbox has them: functions, their exceptions, and ``tools`` to search among them.

Runs inside the kernel. A stub (source from the host, see ``contracts.HostTool``) defines each function; ``offer`` then
gives it ``map``, readable annotations and a place in ``tools``. What goes to the host is in ``payload``'s form.

    one call     {"tool", "arguments"}        answered with {"result"} or {"error", "kind", "type"}
    many         {"calls": [one call, …]}     answered with {"results": [an answer, …]}, in order
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from codeact import payload
from codeact.sandbox import state
from codeact.sandbox.wire import BATCH

Ask = Callable[[str], str]
"""Sends a question to the host and waits for the answer."""

_ask: list[Ask] = []  # how the kernel asks, once there is one
_BATCH_SIZE = 4 << 20  # characters of one batch
_FOUND = 20


class ToolFailed(Exception):
    """A host tool refused or failed. The message is the tool's.

    Where the tool raised a common built-in exception, this is one of that kind, too: ``except ValueError`` catches it.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ToolArgumentsWrong(ToolFailed, TypeError):
    """The arguments do not fit the tool's signature. Nothing was run."""


class ToolRefused(ToolFailed, PermissionError):
    """The person did not allow this call, or nobody was there to ask. Nothing was run."""


class ToolQuotaExceeded(ToolFailed):
    """The tool may not be called again before the next message of the user. Nothing was run."""


class ToolTimeout(ToolFailed, TimeoutError):
    """The tool did not answer within its time limit. What it began may go on, on the host."""


_KINDS: dict[str, type[ToolFailed]] = {
    "arguments": ToolArgumentsWrong,
    "refused": ToolRefused,
    "quota": ToolQuotaExceeded,
    "timeout": ToolTimeout,
}
_NAMED = (
    *(ValueError, TypeError, LookupError, KeyError, IndexError, ArithmeticError, ZeroDivisionError, RuntimeError),
    *(OSError, FileNotFoundError, FileExistsError, PermissionError, ConnectionError, TimeoutError, NotImplementedError),
)


@functools.cache
def _failure(kind: str, type_name: str) -> type[ToolFailed]:
    if kind in _KINDS:
        return _KINDS[kind]
    for known in _NAMED:
        if known.__name__ == type_name:
            return type("ToolFailed", (ToolFailed, known), {"__doc__": ToolFailed.__doc__, "__module__": __name__})
    return ToolFailed


def _error(answer: dict[str, Any]) -> ToolFailed:
    return _failure(str(answer.get("kind")), str(answer.get("type")))(str(answer["error"]))


# --- calls ------------------------------------------------------------------------------------------------------------


def connect(ask: Ask) -> None:
    """The kernel is there."""
    _ask[:] = [ask]


def _packed(tool: str, arguments: dict[str, Any]) -> str:
    """One call as JSON. Raises ToolArgumentsWrong for what cannot be sent."""
    try:
        sent = payload.dumps(arguments)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolArgumentsWrong(f"the arguments of {tool} cannot be sent: {error}") from None
    return f'{{"tool":{json.dumps(str(tool))},"arguments":{sent}}}'


def _unpacked(answer: dict[str, Any]) -> Any:
    """The result in an answer. Raises ToolFailed."""
    if "error" in answer:
        raise _error(answer)
    try:
        return payload.decode(answer["result"])
    except (ValueError, RecursionError) as error:
        raise ToolFailed(f"the result cannot be read here: {error}") from None


def call(tool: str, arguments: dict[str, Any]) -> Any:
    """Have the host run a tool. Raises ToolFailed."""
    return _unpacked(json.loads(_ask[0](_packed(tool, arguments))))


def call_many(tool: str, calls: Iterable[dict[str, Any]], return_exceptions: bool = False) -> list[Any]:
    """Have the host run one tool many times, several at once. Results are in the order of the calls.

    All calls end before this does. Then the first exception, in order, is raised; with ``return_exceptions`` each
    stands in the place of its result instead.
    """
    outcomes: list[Any] = []
    for batch in _batches([_packed(tool, arguments) for arguments in calls]):
        answers = json.loads(_ask[0](f'{{"calls":[{",".join(batch)}]}}'))
        if "error" in answers:
            raise _error(answers)
        for answer in answers["results"]:
            try:
                outcomes.append(_unpacked(answer))
            except ToolFailed as error:
                outcomes.append(error)
    if not return_exceptions:
        for outcome in outcomes:
            if isinstance(outcome, ToolFailed):
                raise outcome
    return outcomes


def _batches(calls: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for one in calls:
        if batch and (len(batch) == BATCH or sum(map(len, batch)) + len(one) > _BATCH_SIZE):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _mapper(name: str, function: Callable[..., Any]) -> Callable[..., list[Any]]:
    signature = inspect.signature(function)

    def arguments(given: tuple[Any, ...], fixed: dict[str, Any]) -> dict[str, Any]:
        bound = signature.bind(*given, **fixed)
        bound.apply_defaults()
        found: dict[str, Any] = {}
        for parameter, value in bound.arguments.items():
            kind = signature.parameters[parameter].kind
            found |= value if kind is inspect.Parameter.VAR_KEYWORD else {parameter: value}
        return found

    def map(values: Iterable[Any], /, *more: Iterable[Any], return_exceptions: bool = False, **fixed: Any) -> list[Any]:
        """Call it once for each value, many at once on the host. Returns the results in the order of the values.

        Further iterables give the next positional arguments, as with the built-in map; ``fixed`` are the same for each
        call. All calls end first; then the first exception is raised, or, with ``return_exceptions=True``, each stands
        in the place of its result.
        """
        calls = [arguments(given, fixed) for given in zip(values, *more, strict=bool(more))]
        return call_many(name, calls, return_exceptions)

    map.__qualname__ = f"{name}.map"
    return map


# --- what the code finds ----------------------------------------------------------------------------------------------


class _Type(str):
    """The text of an annotation, which help() then shows as it would the annotation itself."""

    def __repr__(self) -> str:
        return str(self)


class Found(list[str]):
    """Descriptions of tools, one a line when they are shown."""

    def __repr__(self) -> str:
        return "\n".join(self) or "no tool matches; tools.groups lists the groups, tools.find('') lists all"


class Tools:
    """The functions of the host that can be called here. ``tools.find("words")`` searches them."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, str]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    def find(self, words: str = "", group: str | None = None, limit: int = _FOUND) -> Found:
        """The signatures of the tools that match best, of one group where it is named. Without words: all of them.

        ``help(name)`` shows the whole documentation of one.
        """
        asked = re.findall(r"\w+", words.lower().replace("_", " "))
        ranked = []
        for name, entry in self._entries.items():
            score = _score(asked, name, entry)
            if (score or not asked) and (group is None or entry["group"] == group):
                ranked.append((-score, name))
        ranked.sort()
        shown = ranked if not asked else ranked[:limit]
        lines = [self._line(self._entries[name]) for _, name in shown]
        if len(ranked) > len(shown):
            lines.append(f"… and {len(ranked) - len(shown)} more: name more words, or a higher limit")
        return Found(lines)

    @staticmethod
    def _line(entry: dict[str, str]) -> str:
        return entry["description"] + (f"  [{entry['group']}]" if entry["group"] else "")

    @property
    def groups(self) -> dict[str, int]:
        """How many tools each group has; those without one are under ``""``."""
        names = [entry["group"] for entry in self._entries.values()]
        return {name: names.count(name) for name in sorted(set(names))}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        functions: dict[str, Callable[..., Any]] = self.__dict__.get("_functions", {})
        if name not in functions:
            raise AttributeError(f"there is no tool {name!r}; tools.find('words') searches them")
        return functions[name]

    def __dir__(self) -> list[str]:
        return ["find", "groups", *self._functions]

    def __repr__(self) -> str:
        return f"<{len(self._entries)} tools of the host; tools.find('words') searches them>"


def _score(asked: list[str], name: str, entry: dict[str, str]) -> int:
    names, others = name.lower(), f"{entry['group']} {entry['description']} {entry['text']}".lower()
    words = set(re.findall(r"\w+", names.replace("_", " ")))
    return sum(8 * (word in words) + 4 * (word in names) + (word in others) for word in asked)


def offer(namespace: dict[str, Any], listed: list[dict[str, str]]) -> None:
    """Finish the stubs that were just defined in ``namespace``. ``listed``: name, group and description of each."""
    tools = Tools()
    for entry in listed:
        name = entry["name"]
        function = namespace[name]
        function.__annotations__ = {k: _Type(v) for k, v in getattr(function, "__annotations__", {}).items()}
        function.map = _mapper(name, function)
        tools._functions[name] = function
        tools._entries[name] = entry | {"text": (function.__doc__ or "")[:2000]}
    given: dict[str, Any] = {"tools": tools, "ToolFailed": ToolFailed} | tools._functions
    given |= {kind.__name__: kind for kind in _KINDS.values()}
    namespace.update(given)
    state.offered.update(given)
