"""What a terminal is shown, above all what it must never be shown."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact import events
from codeact.contracts import (
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    Image,
    Output,
    Question,
    Reply,
    StateChanges,
    StreamOutput,
    Usage,
    Variable,
)
from codeact.events import Event
from codeact.screen import CALLS_SHOWN, SHOWN, Passthrough, SafeText, Screen, coloured, summary

NASTY = (
    "\x1b]0;title\x07\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\\x1b[2J\x1b[1;1H\x9b31mred\x07\x08\x00"
    "[bold]x[/bold] :smile:"
)
OURS = re.compile(r"\x1b\[[0-9;]*m|\r\x1b\[K")
"""All that a screen itself sends to a terminal: colours, and a line written again."""


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def show(file: io.StringIO, *told: Event, tasks: bool = False, answers: bool = True) -> str:
    screen = Screen(file, tasks=tasks, answers=answers)
    for event in told:
        screen.show(event)
    return file.getvalue()


def run_of(*outputs: Output, status: str = "ok", live: bool = True) -> list[Event]:
    """One execution with these outputs, as it is told."""
    result = ExecutionResult.model_validate({"status": status, "outputs": outputs})
    told: list[Event] = [events.TurnStarted(turn=1), events.ExecutionStarted(turn=1, code="f()")]
    told += [events.ExecutionOutput(output=output) for output in outputs] if live else []
    return [*told, events.ExecutionFinished(turn=1, result=result)]


def stream(text: str) -> StreamOutput:
    return StreamOutput(name="stdout", text=text)


def assert_harmless(shown: str) -> None:
    left = OURS.sub("", shown)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", left), repr(left)


@given(st.lists(st.text(alphabet="ab\x1b[]0;1mK\x07\\\r\n\t\b\x9b\x00 P", max_size=12), max_size=8))
def test_safe_text_does_not_depend_on_how_it_was_cut(pieces: list[str]) -> None:
    cut, whole = SafeText(), SafeText()
    in_pieces = "".join(map(cut.feed, pieces)) + cut.end()
    assert in_pieces == whole.feed("".join(pieces)) + whole.end()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r\n", in_pieces)


def test_an_escape_sequence_cut_in_two_leaves_nothing_behind() -> None:
    safe = SafeText()
    assert [safe.feed(p) for p in ("a\x1b]0;ti", "tle\x07b\x1b[3", "1mc")] == ["a", "b", "c"]


def test_an_escape_sequence_without_end_does_not_hold_text_back_for_ever() -> None:
    safe = SafeText()
    safe.feed("\x1b]0;")
    assert "visible" in "".join(safe.feed("x" * 3000) for _ in range(3)) + safe.feed("\nvisible\n")


@pytest.mark.parametrize("file", [Tty(), io.StringIO()], ids=["terminal", "pipe"])
def test_nothing_of_a_model_or_of_code_reaches_the_terminal_raw(file: io.StringIO) -> None:
    bundle = DisplayOutput(data={"text/plain": NASTY}, is_result=True)
    strange = DisplayOutput(data={NASTY: "x"})
    broken = DisplayOutput(data={"image/png": NASTY})
    error = ErrorOutput(name=NASTY, message=NASTY, traceback=(NASTY, NASTY))
    changes = StateChanges(added=(Variable(name=NASTY, type=NASTY),), removed=(NASTY,))
    finished = ExecutionResult(status="timeout", notice=NASTY, changes=changes, full_output=NASTY)
    outputs = [stream(NASTY + "\n"), stream("x" * SHOWN + NASTY), bundle, strange, broken, error]
    told: list[Event] = [
        events.RunStarted(task=NASTY),
        events.TurnStarted(turn=1),
        *(events.ModelDelta(kind="thought", text=c) for c in NASTY),
        events.ModelDelta(kind="code", text=f"print(1) # {NASTY}\n"),
        events.ModelRestarted(reason=NASTY),
        events.ModelReplied(turn=1, reply=Reply(text=NASTY, thought=NASTY, code=f"'''{NASTY}'''")),
        events.ExecutionStarted(turn=1, code=NASTY),
        *(events.ExecutionOutput(output=output) for output in outputs),
        events.ExecutionFinished(turn=1, result=finished),
        events.TurnStarted(turn=2),
        events.Observed(turn=2, text=NASTY),
        events.Notice(text=NASTY),
        events.Compacted(elided=6, dropped=4, shortened=((6, 300),), summary=NASTY, state=NASTY),
        events.ModelReplied(turn=2, reply=Reply(text=NASTY, answer=NASTY)),
        events.RunFinished(reason="model_error", message=NASTY),
    ]
    shown = show(file, *told, tasks=True, answers=True)
    assert_harmless(shown)
    assert "evil" not in shown and "title" not in shown  # links and titles vanish whole
    assert "[bold]x[/bold] :smile:" in OURS.sub("", shown)  # text is never markup


def test_only_colours_of_a_traceback_are_kept() -> None:
    kept = coloured(f"\x1b[31mred\x1b[0m {NASTY} \x1b[38;5;196mdeep\x1b[0m \x1b[\x1b[31m2J \x1b]0;\x1b[32mt\x07")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", kept.plain)
    assert {str(span.style) for span in kept.spans} >= {"color(1)", "color(196)"}


def test_code_streams_line_by_line_with_colours() -> None:
    file = Tty()
    screen = Screen(file)
    screen.show(events.TurnStarted(turn=1))
    for piece in ("for i in", " range(3):\n    pri", "nt(i)"):
        screen.show(events.ModelDelta(kind="code", text=piece))
    assert "range" in file.getvalue() and "print" not in file.getvalue()
    screen.show(events.ModelReplied(turn=1, reply=Reply(text="…", code="for i in range(3):\n    print(i)")))
    assert OURS.sub("", file.getvalue()) == "│ for i in range(3):\n│     print(i)\n"
    assert "\x1b[" in file.getvalue()


def test_a_string_over_many_lines_keeps_its_colour_while_it_streams() -> None:
    file = Tty()
    code = 'x = """\nfor not a keyword\n"""\n'
    show(file, events.TurnStarted(turn=1), events.ModelDelta(kind="code", text=code))
    inside = next(line for line in file.getvalue().split("\n") if "keyword" in line)
    assert len(re.findall(r"\x1b\[[0-9;]+m", inside.partition("│ ")[2])) <= 3  # one colour for the whole line


def test_a_streamed_answer_is_shown_once() -> None:
    told: list[Event] = [events.TurnStarted(turn=1)]
    told += [events.ModelDelta(kind="thought", text=word) for word in ("It ", "is ", "42.")]
    told += [events.ModelReplied(turn=1, reply=Reply(text="It is 42.", answer="It is 42."))]
    assert show(Tty(), *told).count("42") == 1
    assert show(io.StringIO(), *told).count("It is 42.") == 1
    assert "42" not in show(io.StringIO(), *told, answers=False)


def test_an_answer_that_was_not_streamed_as_it_is_is_shown_whole() -> None:
    told: list[Event] = [events.TurnStarted(turn=1), events.ModelDelta(kind="thought", text="It is ")]
    reply = events.ModelReplied(turn=1, reply=Reply(text="It is <solution>42</solution>", thought="It is", answer="42"))
    assert show(Tty(), *told, reply) == "It is \n42\n"


def test_a_progress_bar_is_one_line() -> None:
    bar = run_of(*(stream(f"\r{n:3}%") for n in (10, 50, 100)), stream("\ndone\n"))
    assert "\r\x1b[K   50%\r\x1b[K  100%\n  done\n" in show(Tty(), *bar)
    assert show(io.StringIO(), *bar) == "  100%\n  done\n"


def test_output_that_was_not_told_live_is_shown_from_the_result() -> None:
    assert show(io.StringIO(), *run_of(stream("a\n"), stream("b"), live=False)) == "  a\n  b\n"


def test_endless_output_is_cut_and_counted() -> None:
    shown = show(io.StringIO(), *run_of(*(stream("x" * 999 + "\n") for _ in range(100))))
    assert len(shown) < SHOWN + 1000
    assert "80,000 more characters are not shown here" in shown


def test_a_reply_that_cannot_be_followed_says_why() -> None:
    told: list[Event] = [events.TurnStarted(turn=1), events.Observed(turn=1, text="The arguments are not JSON.")]
    assert "The arguments are not JSON." in show(io.StringIO(), *told)
    assert "seen" not in show(io.StringIO(), *run_of(stream("x\n")), events.Observed(turn=1, text="seen"))


def test_what_is_no_longer_sent_is_told() -> None:
    def told(**fields: Any) -> str:
        return show(io.StringIO(), events.Compacted(**fields)).strip()

    assert told(elided=7) == "[to fit the window, the outputs of 7 messages are left out]"
    assert told(dropped=4, elided=4, summary="x") == "[to fit the window, 4 old messages are summarised]"
    both = "4 old messages are left out; the outputs of 2 messages are left out; 1 longer than it is cut"
    assert told(dropped=4, elided=6, shortened=((6, 300),)) == f"[to fit the window, {both}]"


def test_summary() -> None:
    usage = Usage(prompt_tokens=1200, completion_tokens=34, estimated=True)
    end = events.RunFinished(reason="answered", turns=1, executions=2, usage=usage, cost=0.5, duration=1.25)
    said = summary(end)
    assert said == "answered · 1 turn · 2 executions · about 1,234 tokens · $0.5000 · 1.2 s (model 0.0, code 0.0)"


def test_passthrough_gives_a_pipe_what_the_code_wrote() -> None:
    out, err = io.StringIO(), io.StringIO()
    passing = Passthrough(out, err, lambda image: "")
    passing.show(stream(NASTY))
    passing.show(DisplayOutput(data={"text/plain": "42"}, is_result=True))
    passing.show(ErrorOutput(name="E", message="m", traceback=("\x1b[31mE\x1b[0m: m",)))
    assert out.getvalue() == f"{NASTY}\n42\n"
    assert err.getvalue() == "E: m\n"


def test_passthrough_gives_a_terminal_nothing_raw() -> None:
    file = Tty()
    passing = Passthrough(file, file, lambda image: "")
    for output in (stream(NASTY[:4]), stream(NASTY[4:]), stream("1%\r2%\r")):
        passing.show(output)
    passing.show(DisplayOutput(data={"text/plain": NASTY}))
    passing.show(DisplayOutput(data={"image/png": NASTY}))
    passing.show(ErrorOutput(name="E", message="m", traceback=(NASTY, "\x1b[31mE\x1b[0m")))
    passing.end(ExecutionResult(status="died", notice=NASTY))
    assert_harmless(file.getvalue())
    assert "\x1b[31mE\x1b[0m" in file.getvalue()


def test_pictures_are_told_and_kept_where_somebody_wants_them() -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    kept: list[Image] = []
    screen = Screen(file := io.StringIO(), on_image=lambda image: kept.append(image) or ": at x.png")  # type: ignore[func-returns-value]
    for event in run_of(DisplayOutput(data={"image/png": png, "text/plain": "<Figure>"})):
        screen.show(event)
    assert file.getvalue() == "  [image/png, 1×1: at x.png]\n"
    assert [image.data for image in kept] == [png]


def call_of(number: int, **more: object) -> Event:
    told = {
        "turn": 1,
        "id": str(number),
        "tool": "pay",
        "arguments": {"to": NASTY, "n": number},
        "duration": 2.0,
        **more,
    }
    return events.ToolCalled.model_validate(told)


def test_calls_of_tools_are_shown_and_counted() -> None:
    calls = [call_of(1, waited=1.5), call_of(2, error=NASTY), call_of(3, error=NASTY, approval="refused")]
    calls += [call_of(number) for number in range(4, CALLS_SHOWN + 6)]
    told = run_of(stream("out\n"))
    shown = show(Tty(), *told[:-1], *calls, told[-1])
    assert_harmless(shown)
    assert "n=1) answered after 0.5 s]" in shown and "n=2) failed after 2.0 s]" in shown and "n=3) was refused" in shown
    assert f"n={CALLS_SHOWN}) answered" in shown and f"n={CALLS_SHOWN + 1})" not in shown
    assert "[5 more calls of host tools]" in shown


def test_questions_are_shown_of_recordings_only() -> None:
    """While a run is live, who asks shows the question."""
    questions = [
        Question(id="1", kind="approval", tool="pay", arguments={"to": NASTY, "text": "x" * 50_000}),
        Question(id="2", kind="input", prompt=NASTY),
    ]
    told = [events.Asked(turn=1, question=question) for question in questions]
    shown = show(Tty(), *told, tasks=True)
    assert_harmless(shown)
    assert (
        "The code wants to call pay(to='" in shown
        and "characters are not shown…]" in shown
        and "The code asks: " in shown
    )
    assert show(Tty(), *told) == ""
