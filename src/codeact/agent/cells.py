"""A recorded conversation as the cells of a notebook: what was run, what came of it, and which names were alive."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from codeact.contracts import OUTSIDE_EFFECTS, ExecutionResult, Variable
from codeact.events import Event, ExecutionFinished, ExecutionStarted, GivenFile, Resumed, RunStarted, ToolCalled

_BLANK = r"[ \t]*"
_MARK = re.compile(rf"^{_BLANK}{OUTSIDE_EFFECTS.replace(' ', _BLANK)}\b", re.MULTILINE | re.IGNORECASE)

STOPPED = ("timeout", "interrupted")


@dataclass
class Cell:
    """One piece of code of a conversation. ``number`` counts from 1 over all its runs.

    ``files`` were put into the workspace since the cell before; ``calls`` are those of host tools that it made;
    ``result`` is None where the recording ends before the code did.
    """

    number: int
    code: str
    files: tuple[GivenFile, ...] = ()
    calls: list[ToolCalled] = field(default_factory=list)
    result: ExecutionResult | None = None
    in_new_kernel: bool = False
    """The kernel of the cells before was gone when this one began."""

    @property
    def has_outside_effects(self) -> bool:
        """It has a comment line that says so: ``# codeact: outside effects``."""
        return _MARK.search(self.code) is not None

    @property
    def reason_to_skip(self) -> str | None:
        """Why it is not run again whoever asks, None where it can be."""
        if self.has_outside_effects:
            return "has outside effects"
        if self.result is None:
            return "had not ended when the recording ended"
        return "killed the kernel" if self.result.status == "died" else None


class History:
    """The cells of a conversation, and what is known of its state at the end.

    ``variables`` are the names that were alive, each with the cell that made or changed it last in ``made_in``.
    ``files`` were put in after the last cell. ``in_new_kernel``: the state of all cells was lost at the end.
    ``told``: the kernel said what its code changed. ``skipped`` were left out already when it was resumed before.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.cells: list[Cell] = []
        self.variables: dict[str, Variable] = {}
        self.made_in: dict[str, int] = {}
        self.files: tuple[GivenFile, ...] = ()
        self.in_new_kernel = False
        self.told = False
        self.skipped: Collection[int] = ()
        running: Cell | None = None
        for event in events:
            match event:
                case RunStarted():
                    known = {file.name: file for file in event.given}
                    self.files += tuple(known.get(name) or GivenFile(name=name) for name in event.files)
                    running = None
                case ExecutionStarted():
                    new = self.in_new_kernel
                    running = Cell(len(self.cells) + 1, event.code, self.files, in_new_kernel=new)
                    self.cells.append(running)
                    self.files, self.in_new_kernel = (), False
                case ToolCalled() if running is not None:
                    running.calls.append(event)
                case ExecutionFinished() if running is not None:
                    running.result = event.result
                    self._learn(running, event.result)
                    running = None
                case Resumed():
                    self._begin_anew(event)
                case _:
                    pass

    def _learn(self, cell: Cell, result: ExecutionResult) -> None:
        cell.in_new_kernel = cell.in_new_kernel or result.fresh_kernel
        if cell.in_new_kernel or result.status == "died":
            self.variables, self.made_in = {}, {}
        self.in_new_kernel = result.status == "died"
        if result.changes is None:
            return
        self.told = True
        for variable in (*result.changes.added, *result.changes.changed):
            self.variables[variable.name] = variable
            self.made_in[variable.name] = cell.number
        for name in result.changes.removed:
            self.variables.pop(name, None)

    def _begin_anew(self, resumed: Resumed) -> None:
        """What was alive from then on is what came back."""
        self.variables = {variable.name: variable for variable in resumed.variables}
        self.skipped = resumed.skipped
