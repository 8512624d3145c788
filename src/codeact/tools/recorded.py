"""Host tools that answer from a recording: what they gave back then, and nothing happens now.

A call is matched by its tool and its arguments; equal calls are answered in the order of the recording. A call that the
recording does not hold is an exception in the code, and reaches no tool.
"""

from __future__ import annotations

import collections
import json
import keyword
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codeact.contracts import HostTool
from codeact.errors import ToolError
from codeact.events import ToolCalled
from codeact.plaintext import short

INPUT = "input"
"""The tool that an answer to ``input()`` is recorded as; its one argument is ``prompt``."""

_STUB = """
def {name}({parameters}):
    {doc}
    from codeact.sandbox.kernelapp import call_host
    return call_host({name!r}, {{{arguments}}})
"""

_INPUT_STUB = """
def input(prompt=''):
    'Ask the user.'
    import builtins
    return builtins.input(prompt)
"""


class Recording:
    """The recorded calls that the tools made of it answer from, until ``release`` lets the live tools take over.

    ``tools`` are those of ``live``, and one for each further tool that ``calls`` name. ``calls`` are what there is to
    answer from, the first ``skip`` left out, unless ``expect`` says otherwise.
    """

    def __init__(self, calls: Sequence[ToolCalled], live: Iterable[HostTool] = (), *, skip: int = 0) -> None:
        self.live = {tool.name: tool for tool in live}
        self.replaying = True
        parameters: dict[str, dict[str, None]] = {}  # in the order of their first call, of their first use
        for call in calls:
            parameters.setdefault(call.tool, {}).update(dict.fromkeys(filter(is_name, call.arguments)))
        names = [*self.live, *(name for name in parameters if name not in self.live and is_name(name))]
        self.tools = tuple(
            RecordedTool(self, name, tuple(parameters.get(name, ())), self.live.get(name)) for name in names
        )
        self.expect(calls[skip:])

    def expect(self, calls: Iterable[ToolCalled]) -> None:
        """From now on, answer from these calls and no others."""
        self._by_tool: dict[str, list[_Call]] = {}
        self._by_arguments: dict[tuple[str, str], collections.deque[_Call]] = {}
        for told in calls:
            call = _Call(told)
            self._by_tool.setdefault(told.tool, []).append(call)
            self._by_arguments.setdefault((told.tool, call.arguments), collections.deque()).append(call)

    def release(self) -> None:
        """From now on, calls go to the live tools. One that has none says so to the code."""
        self.replaying = False
        self.expect(())
        for tool in self.tools:
            tool.describe()

    def answer(self, tool: str, arguments: Mapping[str, object], *, partly: bool = False) -> object:
        """What the next such call of the recording gave back. Raises ToolError: the recorded one, or that none is left.

        ``partly``: arguments that are missing or None may have been anything, such as a default.
        """
        wanted = _plain(arguments)
        alike = self._by_arguments.get((tool, wanted), collections.deque())
        while alike and alike[0].used:
            alike.popleft()
        found = alike[0] if alike else self._find(tool, arguments) if partly else None
        if found is None:
            left = sum(not call.used for call in self._by_tool.get(tool, ()))
            others = f"it holds {left} other calls of {tool}" if left else f"it holds no further call of {tool}"
            raise ToolError(f"the recording does not hold the call {tool}({short(wanted[1:-1], 200)}): {others}")
        found.used = True
        if found.told.error is not None:
            raise ToolError(found.told.error, found.told.error_kind or "failed", found.told.error_type)
        return found.told.result

    def _find(self, tool: str, arguments: Mapping[str, object]) -> _Call | None:
        """The first call that had these arguments among others."""
        calls = self._by_tool.get(tool, [])
        while calls and calls[0].used:
            calls.pop(0)
        given = _plain_items({name: value for name, value in arguments.items() if value is not None})
        return next((call for call in calls if not call.used and given <= _plain_items(call.told.arguments)), None)


class _Call:
    """A recorded call, and whether it was answered from."""

    def __init__(self, told: ToolCalled) -> None:
        self.told = told
        self.arguments = _plain(told.arguments)
        self.used = False


class RecordedTool:
    """One tool of a recording; see ``codeact.contracts.HostTool``. Where there is a ``live`` one, it looks like it."""

    def __init__(self, recording: Recording, name: str, parameters: Sequence[str], live: HostTool | None) -> None:
        self.recording = recording
        self.name = name
        self.parameters = tuple(parameters)
        self.live = live
        self.describe()

    def describe(self) -> None:
        """Set ``stub`` and ``description`` to what holds now."""
        if self.live is not None:
            self.stub, self.description = self.live.stub, self.live.description
            return
        state = "answers as recorded" if self.recording.replaying else "was here once and is not any more"
        self.description = f"{self.name}({', '.join(self.parameters)}): {state}"
        self.stub = _STUB.format(
            name=self.name,
            parameters=", ".join(f"{name}=None" for name in self.parameters),
            arguments=", ".join(f"{name!r}: {name}" for name in self.parameters),
            doc=repr(self.description),
        )
        if self.name == INPUT and not self.recording.replaying:
            self.stub, self.description = _INPUT_STUB, "input(prompt): asks the user, where there is one"

    def __getattr__(self, name: str) -> Any:
        """What a live tool has beyond the contract, such as its rules."""
        if name.startswith("_") or self.__dict__.get("live") is None:
            raise AttributeError(name)
        return getattr(self.live, name)

    def needs_approval(self, arguments: dict[str, object]) -> bool:
        """Whether a person is to be asked before this call: never for what is only told again."""
        if self.recording.replaying or self.live is None:
            return False
        decide = getattr(self.live, "needs_approval", None)
        if decide is not None:
            return bool(decide(arguments))
        return getattr(getattr(self.live, "rules", None), "approval", "never") != "never"

    def call(self, arguments: dict[str, object]) -> object:
        """As recorded, or of the live tool once the recording was released. Raises ToolError."""
        if self.recording.replaying:
            return self.recording.answer(self.name, arguments, partly=self.live is None)
        if self.live is None:
            raise ToolError(f"{self.name} was here when the conversation was recorded; now there is no such tool")
        return self.live.call(arguments)


def is_name(text: str) -> bool:
    """Whether this can be the name of a function."""
    return text.isidentifier() and not keyword.iskeyword(text)


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _plain_items(arguments: Mapping[str, object]) -> set[tuple[str, str]]:
    return {(name, _plain(value)) for name, value in arguments.items()}
