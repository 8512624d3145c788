"""A person beside the agent: allows calls, answers ``input()``; by a function, by events, at a terminal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact import Agent, Budget, tool
from codeact.contracts import Answer, Question, Sandbox
from codeact.events import Asked, Event, ExecutionFinished, ExecutionStarted, ToolCalled
from codeact.sandbox import Sandbox as open_sandbox
from codeact.trajectory import load, save
from tests.conversations import code, collect, end_of, says, stdout, talk
from tests.servers import ScriptedServer
from tests.terminal import Terminal, command, environment, terminal

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCE = str(Path(__file__).parents[1] / "src")


@tool(approval="always", quota=2)
def pay(to: str, amount: int = 5) -> str:
    """Pay somebody."""
    return f"{amount} to {to}"


TRY = "try:\n    print(pay('Ann', 7))\nexcept ToolRefused as error:\n    print('refused:', error)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


def asked(seen: list[Event]) -> list[Question]:
    return [event.question for event in seen if isinstance(event, Asked)]


def called(seen: list[Event]) -> list[ToolCalled]:
    return [event for event in seen if isinstance(event, ToolCalled)]


async def test_a_function_answers(sandbox: Sandbox, tmp_path: Path) -> None:
    questions: list[Question] = []

    async def ask(question: Question) -> bool | str | None:
        questions.append(question)
        return "Bob" if question.kind == "input" else question.arguments["amount"] == 7

    action = f"{TRY}\nname = input('who? ')\ntry:\n    pay(name)\nexcept ToolRefused as error:\n    print(error)"
    async with talk(sandbox, says(code(action), "Done."), tools=[pay], ask=ask) as conversation:
        seen = await collect(conversation)
        assert stdout(seen) == "7 to Ann\nthe user refused this call of pay\n"
        assert [q.kind for q in questions] == ["approval", "input", "approval"] and asked(seen) == questions
        kinds = [
            type(e).__name__ for e in seen if isinstance(e, Asked | ToolCalled | ExecutionStarted | ExecutionFinished)
        ]
        assert kinds == ["ExecutionStarted", *["Asked", "ToolCalled"] * 3, "ExecutionFinished"]
        assert [(c.tool, c.approval, c.result) for c in called(seen)] == [
            ("pay", "approved", "7 to Ann"), ("input", "", "Bob"), ("pay", "refused", None),
        ]  # fmt: skip
        assert [c.id for c in called(seen)] == [q.id for q in questions]
        save(tmp_path / "run.jsonl", conversation.events)
        assert [e for e in load(tmp_path / "run.jsonl").events if isinstance(e, Asked | ToolCalled)] == [
            e for e in seen if isinstance(e, Asked | ToolCalled)
        ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (True, "7 to Ann"),
        (False, "refused: the user refused this call of pay"),
        ("not today", "refused: the user refused this call of pay: not today"),
        (None, "refused: the user refused this call of pay"),
        (Answer(approved=True), "7 to Ann"),
        (1, "refused: the user refused this call of pay"),
    ],
)
async def test_what_an_ordinary_function_can_say(
    sandbox: Sandbox, answer: Answer | bool | str | None, told: str
) -> None:
    async with talk(sandbox, says(code(TRY), "Done."), tools=[pay], ask=lambda question: answer) as conversation:
        assert stdout(await collect(conversation)) == f"{told}\n"


async def test_nobody_to_ask(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(code(f"{TRY}\ninput()"), "Done."), tools=[pay]) as conversation:
        seen = await collect(conversation)
    assert stdout(seen) == "refused: pay needs a person's approval, and there is nobody to ask here\n"
    assert not asked(seen) and "EOFError" in str([e for e in seen if isinstance(e, ExecutionFinished)])


async def test_events_ask_and_a_method_answers(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(code(TRY), code(TRY), "Done."), tools=[pay], ask="events") as conversation:
        assert not conversation.answer("nothing", approved=True)

        def answer(event: Event) -> None:
            if isinstance(event, Asked):
                first = event.turn == 1
                assert conversation.answer(event.question.id, approved=first, text=None if first else "enough")

        seen = await collect(conversation, each=answer)
        assert stdout(seen) == "7 to Ann\nrefused: the user refused this call of pay: enough\n"
        assert not conversation.answer(asked(seen)[0].id, approved=True)


async def test_nobody_decides_in_time(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(code(TRY), "Done."), tools=[pay], ask="events", ask_limit=0.2) as conversation:
        told = stdout(await collect(conversation))
    assert told == "refused: nobody decided within 0.2 seconds whether pay may be called\n"


async def test_a_quota_begins_anew_with_each_message(sandbox: Sandbox) -> None:
    once = code("print(pay('Ann'))")
    model = says(once, once, once, "Done.", once, "Done.")
    async with talk(sandbox, model, tools=[pay], ask=lambda question: True) as conversation:
        assert [c.error is None for c in called(await collect(conversation))] == [True, True, False]
        assert [c.error is None for c in called(await collect(conversation))] == [True]


async def test_the_budget_of_seconds_waits_for_the_person(sandbox: Sandbox) -> None:
    """The person takes longer than the whole run may."""

    async def ask(question: Question) -> bool:
        await asyncio.sleep(2.5)  # what is tested is that time passes
        return True

    async with talk(
        sandbox, says(code(TRY), "Done."), tools=[pay], ask=ask, budget=Budget(seconds=2), timeout=1.5
    ) as conversation:
        seen = await collect(conversation)
    assert end_of(seen).reason == "answered" and stdout(seen) == "7 to Ann\n"
    assert called(seen)[0].waited >= 2.4


async def test_cancelling_while_a_person_is_asked(sandbox: Sandbox) -> None:
    withdrawn = asyncio.Event()

    async def ask(question: Question) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            withdrawn.set()
        return True

    async with talk(sandbox, says(code(TRY), "Done."), tools=[pay], ask=ask) as conversation:

        def cancel(event: Event) -> None:
            if isinstance(event, Asked):
                asyncio.get_running_loop().call_later(0.1, conversation.cancel)

        began = time.monotonic()
        seen = await collect(conversation, each=cancel)
        assert end_of(seen).reason == "cancelled" and withdrawn.is_set() and time.monotonic() - began < 20
        assert called(seen)[0].error == "the code was stopped before the call ended"


async def test_an_asker_that_fails_refuses_and_is_told(sandbox: Sandbox) -> None:
    def ask(question: Question) -> bool:
        raise ZeroDivisionError("my mistake")

    async with talk(sandbox, says(code(TRY), "Done."), tools=[pay], ask=ask) as conversation:
        seen: list[Event] = []
        with pytest.raises(ZeroDivisionError, match="my mistake"):
            async for event in conversation.send("do it"):
                seen.append(event)
        assert end_of(seen).reason == "error" and called(seen)[0].approval == "refused"


async def test_ordinary_code_has_a_person_too(sandbox: Sandbox) -> None:
    def run() -> str | None:
        agent = Agent(says(code(TRY), "Done."), tools=[pay], ask=lambda question: True)
        return agent.run("Go.").answer

    assert await asyncio.to_thread(run) == "Done."


# --- at a terminal ------------------------------------------------------------------------------------------------

TOOLS = """
from codeact import tool

@tool(approval="always")
def pay(to: str, amount: int = 5) -> str:
    '''Pay somebody.'''
    open("paid.txt", "a").write(f"{amount} to {to}\\n")
    return "paid"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mine.py").write_text(TOOLS)
    (tmp_path / "home").mkdir()
    return environment(tmp_path / "home", PYTHONPATH=SOURCE)


def at(server: ScriptedServer) -> list[str]:
    return ["--model", "scripted", "--base-url", server.base_url, "--tools", "mine.py"]


def finish(screen: Terminal) -> int:
    return screen.wait()


async def test_a_terminal_allows_refuses_and_answers(tmp_path: Path, env: dict[str, str]) -> None:
    def told(to: str) -> str:
        return f"try:\n    print(pay({to!r}))\nexcept ToolRefused as error:\n    print(error)"

    actions = "\n".join([told("Ann\u202e\x1b[31m"), told("Bob"), told("Cid"), "print('so', input('who? '))"])
    with (
        ScriptedServer([f"<execute>{actions}</execute>", "All done."]) as server,
        terminal(command("run", "Go.", *at(server)), env, tmp_path) as screen,
    ):
        screen.expect(r"wants to call pay\(to='Ann\\u202e\\x1b\[31m', amount=5\)")
        screen.expect(r"allow it\? \(y/N, or say why not\)")
        screen.type("y\r")
        screen.expect(r"call pay\(to='Bob', amount=5\)\s")
        screen.expect("say why not")
        screen.type("\r")
        screen.expect(r"refused this call of pay\s")
        screen.expect("say why not")
        screen.type("not him\r")
        screen.expect("refused this call of pay: not him")
        screen.expect(r"The code asks: who\?")
        screen.type("Dora\r")
        screen.expect("so Dora")
        screen.expect("All done.")
        assert finish(screen) == 0
    assert (tmp_path / "paid.txt").read_text() == "5 to Ann\u202e\x1b[31m\n"


async def test_ctrl_c_while_a_terminal_is_asked(tmp_path: Path, env: dict[str, str]) -> None:
    action = "<execute>pay('Ann')</execute>"
    with (
        ScriptedServer([action, action, "All done."]) as server,
        terminal(command("chat", *at(server)), env, tmp_path) as screen,
    ):
        screen.expect("Ctrl-D ends")
        screen.type("first\r")
        screen.expect("say why not")
        screen.type("\x03")
        screen.expect("stopped: the run was cancelled")
        screen.type("second\r")
        screen.expect("say why not")
        screen.type("y\r")
        screen.expect("All done.")
        screen.type("/quit\r")
        assert finish(screen) == 0
    assert (tmp_path / "paid.txt").read_text() == "5 to Ann\n"


async def test_exec_at_a_terminal_asks_for_input(tmp_path: Path, env: dict[str, str]) -> None:
    program = "import getpass\nprint('hello', input('name? '))\nprint(len(getpass.getpass('word? ')))\ninput('end? ')"
    with terminal(command("exec", program), env, tmp_path) as screen:
        screen.expect(r"The code asks: name\?")
        screen.type("Ann\r")
        screen.expect("hello Ann")
        screen.expect(r"The code asks: word\?\s+›")
        screen.type("hidden\r")
        screen.expect("6")
        screen.expect(r"The code asks: end\?\s+›")
        screen.type("\x04")
        screen.expect("EOFError")
        assert finish(screen) == 1
        assert "hidden" not in screen.text


async def test_pipes_have_nobody(tmp_path: Path, env: dict[str, str]) -> None:
    action = f"<execute>{TRY}</execute>"
    with ScriptedServer([action, "All done."]) as server:
        process = await asyncio.create_subprocess_exec(
            *command("run", "Go.", *at(server)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=tmp_path,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert out == b"All done.\n" and b"there is nobody to ask here" in err and not os.path.exists(tmp_path / "paid.txt")
    assert b"pay(to='Ann', amount=7) was refused" in err


@pytest.mark.parametrize(
    ("source", "message"), [("1 / 0", "ZeroDivisionError"), ("x = 1", "defines no tool"), (None, "there is no file")]
)
async def test_files_of_tools_that_cannot_be(
    tmp_path: Path, env: dict[str, str], source: str | None, message: str
) -> None:
    if source is not None:
        (tmp_path / "odd.py").write_text(source)
    process = await asyncio.create_subprocess_exec(
        *command("run", "Go.", "--tools", "odd.py"), stderr=asyncio.subprocess.PIPE, env=env, cwd=tmp_path
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2 and message in err.decode() and "Traceback" not in err.decode()
