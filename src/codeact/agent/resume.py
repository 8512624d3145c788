"""A conversation whose kernel is gone goes on: its code is run again in a fresh session.

Host tools answer from the recording, so that nothing happens a second time; code that is marked as having effects
outside of the sandbox is skipped. Then the names that are alive are compared with those recorded, by type, shape and
length, never by value, and the model and the person are told what came back, what differs and what is lost.

Not protected: effects of code that is not marked (over an allowed network, or without a boundary).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TypeAlias

from codeact import events
from codeact.agent.cells import STOPPED, Cell, History
from codeact.agent.conversation import Conversation
from codeact.agent.options import Options
from codeact.contracts import ExecutionResult, HostTool, Variable
from codeact.errors import FileTransferError, UsageError
from codeact.events import Event, GivenFile, Resumed
from codeact.observation import render, variable_text
from codeact.plaintext import plain, short
from codeact.tools import Recording
from codeact.tools.recorded import INPUT
from codeact.trajectory import Trajectory, load

Skip: TypeAlias = Callable[[Cell], bool] | Collection[int]
"""Which cells are not to be run again, besides those that are marked: a predicate, or their numbers."""

Watch: TypeAlias = Callable[[Cell, int], object]
"""Told of each cell before it is run or skipped, and of how many there are."""

_LISTED = 20


class ResumedConversation(Conversation):
    """A recorded conversation that goes on; see ``Agent.resume``. Entering it runs the recorded code again.

    ``resumed`` tells what came back. ``cancel`` while the code is run stops there and keeps what there is. ``restored``
    are the files of this machine that were put in again. ``recorded``: how many events the recording held.
    """

    resumed: Resumed

    def __init__(
        self,
        agent: Options,
        recording: Trajectory | str | os.PathLike[str] | Iterable[Event],
        *,
        skip: Skip = (),
        files: Sequence[str | Path] = (),
        watch: Watch | None = None,
    ) -> None:
        super().__init__(agent)
        if isinstance(recording, str | os.PathLike):
            recording = load(recording)
        told = recording.events if isinstance(recording, Trajectory) else recording
        self.events = [event for event in told if not isinstance(event, events.LIVE)]
        if not any(isinstance(event, events.RunStarted) for event in self.events):
            raise UsageError("the recording holds no run: there is nothing to resume")
        self.recorded = len(self.events)
        self.restored: list[Path] = []
        self._history = History(self.events)
        self._given = {Path(file).name: Path(file) for file in files}
        self._watch = watch or (lambda cell, cells: None)
        self._chosen: dict[int, str] = dict.fromkeys(self._history.skipped, "was skipped before")
        for cell in self._history.cells:
            if skip(cell) if callable(skip) else cell.number in skip:
                self._chosen[cell.number] = "was to be skipped"
            elif why := cell.reason_to_skip:
                self._chosen[cell.number] = why
        self._outcome = _Outcome(self._history)

    async def __aenter__(self) -> ResumedConversation:
        await super().__aenter__()
        try:
            replies = [e.reply for e in self.events if isinstance(e, events.ModelReplied)]
            self.lenient = not any(reply.code and not reply.neighbouring for reply in replies)
            self.events += _ending(self.events, self.agent.observation_limit)
            await self._run_again()
            self.resumed = self._outcome.event(await self._variables())
            self.events.append(self.resumed)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    def _tools(self) -> tuple[HostTool, ...]:
        calls = [call for cell in self._history.cells for call in cell.calls]
        self._recording = Recording(calls, super()._tools())
        return self._recording.tools

    async def _run_again(self) -> None:
        """Every cell in turn, in kernels as many as there were."""
        cells, outcome = self._history.cells, self._outcome
        for cell in cells:
            self._watch(cell, len(cells))
            await self._put_again(cell.files)
            if cell.in_new_kernel:
                await self.session.restart()
            if (why := self._chosen.get(cell.number)) is not None:
                outcome.skipped[cell.number] = why
            elif self.cancelled:
                outcome.unrun.append(cell.number)
            else:
                self._recording.expect(cell.calls)
                outcome.add(cell, await self._run(cell))
        await self._put_again(self._history.files)
        if self._history.in_new_kernel:
            await self.session.restart()
        self._recording.release()
        if any(call.tool == INPUT for cell in cells for call in cell.calls):
            await self.session.run(f"globals().pop({INPUT!r}, None);")  # the stub that hid Python's own

    async def _run(self, cell: Cell) -> ExecutionResult:
        """One cell, no longer than code may run; what was stopped then is stopped after the same time."""
        limit = self.agent.timeout
        if cell.result is not None and cell.result.status in STOPPED:
            limit = max(0.1, min(cell.result.duration, limit or cell.result.duration))
        self.running_code = True
        try:
            return await self.session.run(cell.code, timeout=limit)
        finally:
            self.running_code = False

    async def _put_again(self, files: Iterable[GivenFile]) -> None:
        for file in files:
            given = self._given.get(file.name)
            try:
                note = await self._put(file, given or Path(file.path), given is not None)
            except (UsageError, FileTransferError) as error:
                self._outcome.missing[file.name] = str(error)
                continue
            self._outcome.missing.pop(file.name, None)
            self._outcome.files[file.name] = note
            self.restored.append(given or Path(file.path))

    async def _put(self, file: GivenFile, path: Path, is_given: bool) -> str:
        """Put a file in again; what is to be said of it. Raises UsageError where it cannot be had.

        A file that nobody gave anew is taken only where it is the recorded one to the last bit: a recording, which may
        come from anywhere, must not be able to ask for other files of this machine.
        """
        try:
            with _opened(file, path, is_given) as content:
                digest = await asyncio.to_thread(hashlib.file_digest, content, "sha256")
                is_same = not file.sha256 or digest.hexdigest() == file.sha256
                if not is_given and not is_same:
                    raise UsageError("it has changed since")
                content.seek(0)
                await self.session.put(file.name, content)
        except (OSError, ValueError) as error:
            raise UsageError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return "" if is_same else "not the same as then"

    async def _variables(self) -> tuple[Variable, ...]:
        """Those of the code: the stubs of tools are none."""
        ours = {tool.name for tool in self._recording.tools} - set(self._history.variables)
        return tuple(variable for variable in await self.session.variables() if variable.name not in ours)


def _opened(file: GivenFile, path: Path, is_given: bool) -> BufferedReader | BytesIO:
    """The file, if by its looks it can be the recorded one. Raises UsageError, OSError."""
    if not is_given and not file.sha256:
        raise UsageError("the recording does not say where it was")
    if not path.is_file():
        raise UsageError("it is not there any more")
    if not is_given and path.stat().st_size != file.size:
        raise UsageError("it has changed since")
    if not is_given and not file.size:
        return BytesIO()  # what has no size may be endless all the same
    return path.open("rb")


def _ending(told: Sequence[Event], limit: int) -> list[Event]:
    """The events that a history lacks which was cut off in mid-run, as by a kill."""
    last = max(i for i, event in enumerate(told) if isinstance(event, events.RunStarted))
    run = told[last:]
    if any(isinstance(event, events.RunFinished) for event in run):
        return []
    missing: list[Event] = []
    acts = [e for e in run if isinstance(e, events.ModelReplied | events.ExecutionFinished | events.Observed)]
    if acts and isinstance(acts[-1], events.ExecutionFinished):  # it ran, and its outcome was never shown
        seen = render(acts[-1].result, limit=limit)
        missing.append(events.Observed(turn=acts[-1].turn, text=seen.text, images=seen.images))
    counts = [sum(isinstance(e, kind) for e in run) for kind in (events.TurnStarted, events.ExecutionStarted)]
    why = "the recording ends before the run did"
    missing.append(events.RunFinished(reason="cancelled", message=why, turns=counts[0], executions=counts[1]))
    return missing


class _Outcome:
    """What became of each cell and file, and in words."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.skipped: dict[int, str] = {}
        self.unrun: list[int] = []
        self.failed: dict[int, str] = {}
        self.files: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def add(self, cell: Cell, now: ExecutionResult) -> None:
        """Note how a cell ended, where that is not how it ended then."""
        then = cell.result
        assert then is not None
        error = now.error
        told = f"{error.name}: {short(plain(error.message[:1000]), 200)}" if error else now.status
        if now.status == "died":
            self.failed[cell.number] = "killed the kernel, and with it all variables until there"
        elif now.status in STOPPED and then.status not in STOPPED:
            self.failed[cell.number] = "was stopped before its end" if now.status == "interrupted" else "took too long"
        elif now.status == "error" and then.status != "error":
            self.failed[cell.number] = f"failed with {told}"
        elif error and then.error and error.name != then.error.name:
            self.failed[cell.number] = f"failed with {told}, then with {short(then.error.name, 40)}"
        elif now.status == "ok" and then.status == "error":
            self.failed[cell.number] = "failed then and did not now"

    def event(self, alive: Sequence[Variable]) -> Resumed:
        """The comparison with what was recorded."""
        then, now = self.history.variables, {variable.name: variable for variable in alive}
        back = tuple(name for name in then if now.get(name) == then[name])
        differing = tuple((then[name], now[name]) for name in then if name in now and now[name] != then[name])
        lost = tuple(then[name] for name in then if name not in now)
        new = [now[name] for name in now if name not in then]
        return Resumed(
            text=self._text(back, differing, lost, new),
            cells=len(self.history.cells),
            skipped=tuple(self.skipped),
            unrun=tuple(self.unrun),
            failed=tuple(self.failed),
            variables=tuple(alive),
            back=back,
            differing=differing,
            lost=lost,
            files=tuple(self.files),
            missing_files=tuple(self.missing),
        )

    def _text(
        self,
        back: Sequence[str],
        differing: Sequence[tuple[Variable, Variable]],
        lost: Sequence[Variable],
        new: Sequence[Variable],
    ) -> str:
        history, total = self.history, len(self.history.cells)
        ran = total - len(self.skipped) - len(self.unrun)
        lines = [
            "The conversation goes on in a new kernel. Its code was run again, with recorded results of tools: "
            f"{ran} of {total} cells."
        ]
        changed = [f"{variable_text(a)}, now {variable_text(b).partition(' ')[2]}" for a, b in differing]
        lines += _line("Back", [variable_text(history.variables[name]) for name in back])
        lines += _line("Different now", changed)
        lines += _line("Lost", [variable_text(v) + self._cause(v.name) for v in lost])
        lines += _line("New", [variable_text(v) for v in new])
        lines += _line("Not run again", [f"cell {n} ({why})" for n, why in self.skipped.items()])
        lines += _line("Not run, because it was stopped", [f"cell {n}" for n in self.unrun])
        lines += _line("Otherwise than then", [f"cell {n} {what}" for n, what in self.failed.items()])
        lines += _line("Files put in again", [short(n, 100) + (w and f" ({w})") for n, w in self.files.items()])
        lines += _line("Files that are missing", [f"{short(n, 100)} ({why})" for n, why in self.missing.items()])
        if not history.told and ran:
            lines.append("The kernel did not tell its variables: they cannot be compared.")
        lines.append("Values are not compared: those that depend on time or chance may be others.")
        return "\n".join(lines)

    def _cause(self, name: str) -> str:
        number = self.history.made_in.get(name)
        if number in self.skipped or number in self.unrun or number in self.failed:
            return f", of cell {number}"
        return ""


def _line(title: str, items: Sequence[str]) -> list[str]:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return [f"{title}: {'; '.join(items[:_LISTED])}{more}."] if items else []
