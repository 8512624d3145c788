"""What happens, on a terminal or as plain lines.

Everything shown here is untrusted. No control character of the model or of the code reaches the terminal: colours are
ours, and a carriage return is obeyed by writing the line again. Nothing is ever read as rich's markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TextIO, assert_never

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from codeact import events, raster
from codeact.contracts import (
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    Image,
    Output,
    Question,
    Reply,
    StreamOutput,
)
from codeact.events import Event
from codeact.observation import changes_text
from codeact.payload import call_text
from codeact.plaintext import plain, short, shorten, strip_ansi
from codeact.tracebacks import error_text

SHOWN = 20_000
"""Characters of output of one execution that a screen shows."""

CALLS_SHOWN = 20
"""Calls of host tools of one execution that a screen shows."""

_HELD = 4096
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?|[ -/]*)|\x9b[0-?]*[ -/]*)\Z")
_COLOUR = re.compile(r"(\x1b\[[0-9;]{0,40}m)")
_LEXED = 200  # lines of code before the one to be coloured that are looked at


class SafeText:
    """Untrusted text that comes in pieces, without control sequences wherever they were cut.

    What ``feed`` returns holds no control character but tabs, line ends and, alone, carriage returns.
    """

    def __init__(self) -> None:
        self._begun = ""  # an escape sequence without its end
        self._returns = ""  # carriage returns that a line end may follow

    def feed(self, piece: str) -> str:
        """What of the text so far can be shown already."""
        text = self._begun + piece
        begun = _UNFINISHED.search(text, max(0, len(text) - _HELD))
        self._begun = begun[0] if begun else ""
        clean = self._returns + strip_ansi(text[: len(text) - len(self._begun)]).replace("\b", "")
        shown = clean.rstrip("\r")
        self._returns = clean[len(shown) :]
        return re.sub(r"\r+\n", "\n", shown)

    def end(self) -> str:
        """What is left, the text having ended. The next text begins anew."""
        left = strip_ansi(self._begun).replace("\b", "").replace("\r", "")
        self._begun = self._returns = ""
        return left


def coloured(text: str) -> Text:
    """Untrusted text of which only the colours (SGR) are kept."""
    parts = _COLOUR.split(text)
    return Text.from_ansi("".join(p if i % 2 else strip_ansi(p).replace("\b", "") for i, p in enumerate(parts)))


def image_note(image: Image) -> str:
    """What a picture is, in words."""
    size = raster.size(image)
    return f"{image.mime} that cannot be read" if size is None else f"{image.mime}, {size[0]}×{size[1]}"


class PipeConsole(Console):
    """rich's console, but a closed pipe is an exception like any other."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(file: TextIO) -> Console:
    """A console on which strings are never markup. What is no terminal has room for long lines."""
    width = None if file.isatty() else 200
    return PipeConsole(file=file, width=width, markup=False, emoji=False, highlight=False)


class Screen:
    """Shows events: as they stream on a terminal, else line by line as they are complete.

    ``answers`` and ``tasks``: whether these are shown too. ``on_image`` may keep a picture and say where.
    """

    def __init__(
        self,
        file: TextIO,
        *,
        answers: bool = True,
        tasks: bool = False,
        on_image: Callable[[Image], str] | None = None,
    ) -> None:
        self.console = console(file)
        self.live = self.console.is_terminal
        self.answers = answers
        self.tasks = tasks
        self.on_image = on_image or (lambda image: "")
        self._at_start = True  # of a line
        self._begin_reply()
        self._begin_execution()

    def _begin_reply(self) -> None:
        self._safe = SafeText()
        self._kind = ""
        self._thought = ""
        self._code: list[str] = []
        self._partial = ""  # the line of code that is not complete

    def _begin_execution(self) -> None:
        self._streams = {"stdout": SafeText(), "stderr": SafeText()}
        self._room = SHOWN
        self._unshown = 0
        self._waiting = ""
        self._calls = 0
        self._executed = self._heard = False

    def show(self, event: Event) -> None:
        """Show one event. Raises BrokenPipeError where nobody reads any more."""
        match event:
            case events.RunStarted():
                if self.tasks:
                    self._line(plain(event.task), "bold")
            case events.TurnStarted():
                if event.turn > 1:
                    self._line("")
                self._begin_reply()
                self._begin_execution()
            case events.ModelDelta():
                if self.live:
                    self._delta(event.kind, event.text)
            case events.ModelRestarted():
                self._line(f"[the reply begins again: {short(event.reason, 300)}]", "dim")
                self._begin_reply()
            case events.ModelReplied():
                self._reply(event.reply)
            case events.ExecutionStarted():
                self._begin_execution()
                self._executed = True
            case events.ExecutionOutput():
                self._heard = True
                self._output(event.output)
            case events.ToolCalled():
                self._call(event)
            case events.Asked():
                self._end_streams()  # who asks now shows the question as well
                if self.tasks:
                    self._line(asked(event.question), "yellow")
            case events.ExecutionFinished():
                self._result(event.result)
            case events.Observed():
                if not self._executed:
                    self._line(plain(event.text), "dim")
            case events.Notice() | events.Resumed():
                self._line(plain(event.text), "yellow")
            case events.Compacted():
                self._line(f"[{compacted_text(event)}]", "dim")
            case events.RunFinished():
                self._finished(event)
            case _:
                assert_never(event)

    # --- writing ---

    def _line(self, text: str, style: str = "", gutter: str = "") -> None:
        """Whole lines of clean text."""
        self._newline()
        for line in text.rstrip("\n").split("\n"):
            self.console.print(Text(gutter + line.replace("\r", ""), style), soft_wrap=True)

    def _newline(self) -> None:
        if not self._at_start:
            self.console.print()
            self._at_start = True

    def _write(self, text: str, style: str = "", gutter: str = "") -> None:
        """Pieces of lines of safe text, as they come. Only for terminals."""
        for part in re.split(r"([\r\n])", text):
            if part == "\n":
                self.console.print()
                self._at_start = True
            elif part == "\r":
                self.console.file.write("\r\x1b[K")
                self._at_start = True
            elif part:
                self.console.print(Text((gutter if self._at_start else "") + part, style), end="", soft_wrap=True)
                self._at_start = False

    # --- the model ---

    def _delta(self, kind: str, text: str) -> None:
        if kind != self._kind:
            self._newline()
            self._safe, self._kind = SafeText(), kind
        text = self._safe.feed(text)
        if kind == "thought":
            self._thought += text
            self._write(text)
        else:
            *lines, self._partial = (self._partial + text).split("\n")
            self._code_lines(lines)

    def _code_lines(self, lines: list[str]) -> None:
        if lines:
            self._newline()
            self._code += lines
            recent = self._code[-_LEXED - len(lines) :]
            whole = Syntax("", "python", theme="ansi_dark").highlight("\n".join(recent))
            for line in whole.split("\n", allow_blank=True)[len(recent) - len(lines) : len(recent)]:
                self.console.print(Text.assemble(("│ ", "cyan"), line), soft_wrap=True)

    def _reply(self, reply: Reply) -> None:
        streamed = self._thought.strip()
        self._newline()
        if self._partial:
            self._code_lines([self._partial])
            self._partial = ""
        if reply.answer is not None:
            if self.answers and plain(reply.answer).strip() != streamed:
                self._line(plain(reply.answer))
        elif reply.thought and not streamed:
            self._line(plain(reply.thought))
        if reply.code and not self._code:
            self._code_lines(plain(reply.code).split("\n"))

    # --- the code ---

    def _output(self, output: Output) -> None:
        match output:
            case StreamOutput():
                self._stream(output)
            case DisplayOutput():
                self._end_streams()
                if output.images:
                    kept = self.on_image(output.images[0])
                    self._line(f"[{image_note(output.images[0])}{kept}]", "magenta", "  ")
                elif output.text:
                    self._line(shorten(plain(output.text[: 10 * SHOWN]), SHOWN), gutter="  ")
                elif output.data:
                    self._line(f"[{short(', '.join(output.data), 100)}]", "magenta", "  ")
            case ErrorOutput():
                self._end_streams()
                self._line(error_text(output), "red", "  ")
            case _:
                assert_never(output)

    def _call(self, call: events.ToolCalled) -> None:
        self._calls += 1
        if call.tool == "input" or self._calls > CALLS_SHOWN:
            return
        outcome = "failed" if call.error is not None else "answered"
        if call.approval == "refused":
            outcome = "was refused"
        self._end_streams()
        text = call_text(call.tool, call.arguments, 60)
        self._line(f"[{text} {outcome} after {call.duration - call.waited:.1f} s]", "dim", "  ")

    def _stream(self, output: StreamOutput) -> None:
        text = output.text[: self._room]
        self._room -= len(text)
        self._unshown += len(output.text) - len(text)
        safe = self._streams[output.name].feed(text)
        if self.live:
            self._write(safe, "" if output.name == "stdout" else "yellow", "  ")
        elif safe:
            *lines, self._waiting = (self._waiting + safe).split("\n")
            for line in lines:
                self._line(line.rpartition("\r")[2], gutter="  ")

    def _end_streams(self) -> None:
        left = "".join(stream.end() for stream in self._streams.values())
        if self.live:
            self._write(left, gutter="  ")
        elif self._waiting + left:
            self._waiting += left
            self._line(self._waiting.rpartition("\r")[2], gutter="  ")
            self._waiting = ""
        self._newline()

    def _result(self, result: ExecutionResult) -> None:
        if self._calls > CALLS_SHOWN:
            self._line(f"[{self._calls - CALLS_SHOWN:,} more calls of host tools]", "dim", "  ")
        if not self._heard:
            for output in result.outputs:
                self._output(output)
        self._end_streams()
        if self._unshown:
            where = f"; the whole is in {short(result.full_output, 100)}" if result.full_output else ""
            self._line(f"[{self._unshown:,} more characters are not shown here{where}]", "dim", "  ")
        if result.notice:
            self._line(f"[{short(result.notice, 1000)}]", "yellow", "  ")
        elif result.status not in ("ok", "error"):
            self._line(f"[{result.status}]", "yellow", "  ")
        if result.changes and (changes := changes_text(result.changes)):
            self._line(changes, "dim", "  ")

    def _finished(self, end: events.RunFinished) -> None:
        self._end_streams()
        self._line(summary(end), "dim")


def asked(question: Question) -> str:
    """What the code asks a person, in one line. A call is shown with all of its arguments."""
    if question.kind == "approval":
        return f"The code wants to call {call_text(question.tool, question.arguments, 4000)}"
    return f"The code asks: {short(plain(question.prompt[:4000]), 2000)}"


def compacted_text(event: events.Compacted) -> str:
    """What the model is no longer sent, in one line."""
    parts = []
    if event.dropped:
        parts.append(f"{event.dropped} old messages {'are summarised' if event.summary else 'are left out'}")
    if event.elided > event.dropped:
        parts.append(f"the outputs of {event.elided - event.dropped} messages are left out")
    if event.shortened:
        parts.append(f"{len(event.shortened)} longer than it {'is' if len(event.shortened) == 1 else 'are'} cut")
    return f"to fit the window, {'; '.join(parts) or 'nothing more is left out'}"


def summary(end: events.RunFinished) -> str:
    """How a run ended, in one line."""
    tokens = end.usage.prompt_tokens + end.usage.completion_tokens
    parts = [
        end.reason.replace("_", " "),
        f"{end.turns} turn{'s' * (end.turns != 1)}",
        f"{end.executions} execution{'s' * (end.executions != 1)}",
        f"{'about ' if end.usage.estimated else ''}{tokens:,} tokens",
    ]
    if end.cost is not None:
        parts.append(f"${end.cost:.4f}")
    parts.append(f"{end.duration:.1f} s (model {end.model_time:.1f}, code {end.code_time:.1f})")
    return " · ".join(parts)


class Passthrough:
    """The outputs of code run without a model: its stdout to ours, its stderr to ours, as they come.

    On a terminal control characters are removed; elsewhere the streams are passed on as they are.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO, on_image: Callable[[Image], str]) -> None:
        self._files = {"stdout": stdout, "stderr": stderr}
        self._safe = {name: SafeText() for name in self._files}
        self._cursor = {name: "terminal" if file.isatty() else name for name, file in self._files.items()}
        self._open_line: set[str] = set()  # cursors that are not at the start of a line
        self._on_image = on_image
        self.streamed = 0

    def write(self, name: str, text: str) -> None:
        """Write a piece of untrusted text to ``stdout`` or ``stderr``, at once."""
        file = self._files[name]
        if file.isatty():
            text = self._safe[name].feed(text).replace("\r", "\r\x1b[K")
        if text:
            cursor = self._cursor[name]
            (self._open_line.discard if text.endswith("\n") else self._open_line.add)(cursor)
            file.write(text)
            file.flush()

    def line(self, name: str, text: str) -> None:
        """Write a line of untrusted text of its own."""
        self.write(name, f"{self._line_end(name)}{text.removesuffix(chr(10))}\n")

    def end_line(self) -> None:
        """Somebody else writes to the terminal next."""
        for name, file in self._files.items():
            if file.isatty() and self._line_end(name):
                self.write(name, "\n")

    def _line_end(self, name: str) -> str:
        """What has to be written for a line of its own."""
        return "\n" if self._cursor[name] in self._open_line else ""

    def show(self, output: Output) -> None:
        """Pass an output on."""
        match output:
            case StreamOutput():
                self.streamed += len(output.text)
                self.write(output.name, output.text)
            case DisplayOutput():
                if output.images:
                    kept = self._on_image(output.images[0]) or ": keep it with --out DIR"
                    self.line("stderr", f"[{image_note(output.images[0])}{kept}]")
                elif output.text:
                    self.line("stdout", output.text)
                elif output.data:
                    self.line("stderr", f"[{short(', '.join(output.data), 100)}]")
            case ErrorOutput():
                self._error(output)
            case _:
                assert_never(output)

    def _error(self, error: ErrorOutput) -> None:
        trace = "\n".join(error.traceback) or f"{error.name}: {error.message}"
        if self._files["stderr"].isatty():
            self.write("stderr", self._line_end("stderr"))
            console(self._files["stderr"]).print(coloured(trace.rstrip("\n")), soft_wrap=True)
        else:
            self.line("stderr", plain(trace))

    def end(self, result: ExecutionResult) -> None:
        """What there is to say after the last output."""
        for name, safe in self._safe.items():
            self.write(name, safe.end())
        marked = len(f"\n… {result.dropped} characters left out …\n") if result.dropped else 0
        unshown = len(result.stdout) + len(result.stderr) - marked + result.dropped - self.streamed
        if unshown > 0:
            self.line("stderr", f"[{unshown:,} more characters of output are not shown]")
        if result.notice or result.status not in ("ok", "error"):
            self.line("stderr", f"[{short(result.notice or result.status, 1000)}]")
        if "terminal" in self._open_line:
            self.write("stdout" if self._cursor["stdout"] == "terminal" else "stderr", "\n")
