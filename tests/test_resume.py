"""A conversation whose kernel is gone goes on: what comes back, what differs, what is lost, and who is told."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import JsonValue

from codeact.agent import Agent, Cell
from codeact.contracts import ExecutionResult, Reply, Sandbox, StateChanges, Variable
from codeact.errors import TrajectoryError, UsageError
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionStarted,
    GivenFile,
    ModelReplied,
    Resumed,
    RunFinished,
    RunStarted,
    ToolCalled,
    TurnStarted,
)
from codeact.models.replay import ReplayModel
from codeact.sandbox import Sandbox as open_sandbox
from codeact.sandbox import image
from codeact.tools import tool
from codeact.trajectory import TrajectoryWriter, load, save
from tests.conversations import code, collect, end_of, observed, says, served, stdout, talk, works
from tests.sandbox.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARK = "# codeact: outside effects"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


async def live(sandbox: Sandbox, *cells: str, files: Sequence[Path] = (), timeout: float | None = None) -> list[Event]:
    """A conversation of these cells, as it was recorded."""
    async with talk(sandbox, says(*map(code, cells), "Done."), timeout=timeout) as conversation:
        async for _ in conversation.send("Begin.", files):
            pass
        return list(conversation.events)


def cell(source: str, result: ExecutionResult | None = None, *calls: ToolCalled) -> list[Event]:
    """The events of one turn, made by hand."""
    begun: list[Event] = [
        TurnStarted(turn=1),
        ModelReplied(turn=1, reply=Reply(text=code(source), code=source)),
        ExecutionStarted(turn=1, code=source),
    ]
    return [*begun, *calls, *([ExecutionFinished(turn=1, result=result)] if result else [])]


def made(*names: str, removed: Sequence[str] = (), fresh: bool = False) -> ExecutionResult:
    """A result that tells of new integers."""
    added = tuple(Variable(name=name, type="int") for name in names)
    return ExecutionResult(status="ok", changes=StateChanges(added=added, removed=tuple(removed)), fresh_kernel=fresh)


def called(name: str, result: JsonValue = None, **arguments: JsonValue) -> ToolCalled:
    return ToolCalled(turn=1, id="1", tool=name, arguments=arguments, result=result)


DIED = ExecutionResult(status="died", notice="The kernel died.")
START = RunStarted(task="Begin.", format="tags")


# --- what comes back ----------------------------------------------------------------------------------------------


async def test_the_state_of_several_messages_comes_back_and_both_are_told(sandbox: Sandbox, tmp_path: Path) -> None:
    first = code("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2, 3]})")
    replies = (first, "One.", code("def double(n): return 2 * n\nwords = ['a', 'b']; tmp = 1"), code("del tmp"), "Two.")
    async with talk(sandbox, says(*replies)) as conversation:
        await collect(conversation, "First")
        await collect(conversation, "Second")
        save(tmp_path / "chat.jsonl", conversation.events)
        before = list(conversation.events)
    seen: list[tuple[int, int]] = []
    async with served(code("print(df.shape, double(21), words)"), "Three.") as (server, model):
        agent = Agent(model, sandbox=sandbox)
        async with agent.resume(
            tmp_path / "chat.jsonl", watch=lambda c, cells: seen.append((c.number, cells))
        ) as conversation:
            resumed = conversation.resumed
            assert (sorted(resumed.back), resumed.lost, resumed.differing) == (["df", "double", "words"], (), ())
            assert {v.name for v in resumed.variables} == {"df", "double", "words"} and resumed.cells == 3
            assert "3 of 3 cells" in resumed.text and "df (DataFrame 3×1)" in resumed.text
            assert conversation.events == [*before, resumed]
            told = await collect(conversation, "Third")
            assert stdout(told) == "(3, 1) 42 ['a', 'b']\n"
        asked = server.requests[0]["messages"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [m["content"] for m in asked if m["role"] == "assistant"][-1] == "Two."
    assert asked[-1]["content"] == f"Third\n\n[{resumed.text}]"


async def test_results_of_tools_are_recorded_ones_until_the_conversation_goes_on(sandbox: Sandbox) -> None:
    answers = itertools.count(100)

    @tool
    def price(of: str, day: int = 1) -> int:
        """The price of something."""
        return next(answers)

    told = [
        START,
        *cell("a = price('x')", made("a"), called("price", 7, of="x", day=1)),
        *cell(f"{MARK}\nb = price('x')", made("b"), called("price", 8, of="x", day=1)),
        *cell("c = price('x')", made("c"), called("price", 9, of="x", day=1)),
        *cell("d = price('y')", made("d")),
    ]
    agent = Agent(says("x", "x", code("print(price('x'))"), "Done."), sandbox=sandbox, tools=[price])
    async with agent.resume(told) as conversation:
        await works(conversation, "a, c", "(7, 9)")
        assert (conversation.resumed.back, conversation.resumed.skipped) == (("a", "c"), (2,))
        assert conversation.resumed.failed == (4,) and "does not hold the call price(" in conversation.resumed.text
        assert next(answers) == 100, "nothing was called"
        assert {v.name for v in conversation.resumed.variables} == {"a", "c"}, "stubs are no names of the code"
        await works(conversation, "price('x')", "101")


async def test_a_tool_that_is_not_there_any_more_still_answers_as_recorded(sandbox: Sandbox) -> None:
    told = [START, *cell("a = search('x', most=2)", made("a"), called("search", 5, query="x", most=2, page=None))]
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        await works(conversation, "a", "5")
        result = await conversation.session.run("search('x')")
        assert result.error is not None and "now there is no such tool" in result.error.message
        assert "search(query, most, page): was here once" in conversation.session.description


async def test_answers_to_input_come_back_and_input_is_pythons_own_again(sandbox: Sandbox) -> None:
    told = [START, *cell("a = int(input('how many? '))", made("a"), called("input", "12", prompt="how many? "))]
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        await works(conversation, "a", "12")
        await works(conversation, "input.__module__ != '__main__'", "True")
        assert conversation.resumed.back == ("a",)


async def test_a_call_through_the_agent_is_recorded_and_comes_back(sandbox: Sandbox) -> None:
    calls = itertools.count()

    @tool
    def draw() -> int:
        """Another number each time."""
        return next(calls)

    @tool
    def check() -> int:
        """Fails as it should."""
        raise ValueError("not today")

    cell = "n = [draw(), draw()]\ntry:\n    check()\nexcept ValueError as error:\n    n.append(str(error))"
    async with talk(sandbox, says(code(cell), "Done."), tools=[draw, check]) as conversation:
        await collect(conversation)
        told = list(conversation.events)
    assert [event.result for event in told if isinstance(event, ToolCalled)] == [0, 1, None]
    async with Agent(says(), sandbox=sandbox, tools=[draw, check]).resume(told) as conversation:
        await works(conversation, "n[:2]", "[0, 1]")
        await works(conversation, "'not today' in n[2]", "True")
        assert next(calls) == 2


async def test_a_recorded_run_replays_with_recorded_results(sandbox: Sandbox) -> None:
    @tool
    def price(of: str) -> int:
        """The price of something."""
        raise AssertionError("nothing is called")

    told = [
        START,
        *cell("print(price('x'), price('x'))", made(), called("price", 1, of="x"), called("price", 2, of="x")),
        *cell("print(price('y'))", made(), called("price", 3, of="y")),
        *cell("price('z')", made()),
        ModelReplied(turn=4, reply=Reply(text="Done.", answer="Done.")),
        RunFinished(reason="answered", answer="Done."),
    ]
    for tools in ([price], []):
        agent = Agent(ReplayModel.from_events(told), sandbox=sandbox, tools=tools)
        result = await agent.arun("Begin.")
        assert stdout(result.events) == "1 2\n3\n" and result.answer == "Done."
        assert "the recording does not hold the call price(" in observed(result.events)[-1]
    at = next(i for i, event in enumerate(told) if isinstance(event, ExecutionFinished)) + 1
    async with agent.resume(told[:at]) as conversation:  # what is left of the recording goes on behind it
        assert stdout(await collect(conversation, "Go on.")) == "3\n"


# --- what is not run again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "is_marked"),
    [
        (f"{MARK}\nx = 1", True),
        ("x = 1\nif x:\n    #codeact:outside effects: an order\n    x = 2", True),
        ("x = 1  # codeact: outside effects", False),
        ("print('# codeact: outside effects')", False),
        ("# codeact: outside effectsx", False),
    ],
)
async def test_what_marks_a_cell(source: str, is_marked: bool) -> None:
    assert Cell(1, source).has_outside_effects is is_marked


async def test_cells_are_skipped_by_mark_number_or_predicate_and_the_loss_is_told(sandbox: Sandbox) -> None:
    told = await live(sandbox, "a = 1", f"{MARK}\nb = 2", "c = 3", "d = 4")
    agent = Agent(says(), sandbox=sandbox)
    async with agent.resume(told, skip=[3]) as conversation:
        resumed = conversation.resumed
        assert (resumed.back, [v.name for v in resumed.lost], resumed.skipped) == (("a", "d"), ["b", "c"], (2, 3))
        assert "Lost: b (int), of cell 2; c (int), of cell 3." in resumed.text
        assert "cell 2 (has outside effects); cell 3 (was to be skipped)" in resumed.text
        again = list(conversation.events)
    async with agent.resume(again, skip=lambda c: "d =" in c.code) as conversation:
        resumed = conversation.resumed
        assert resumed.skipped == (2, 3, 4), "what was skipped once stays so"
        assert ([v.name for v in resumed.lost], resumed.back) == (["d"], ("a",))


async def test_the_death_of_a_kernel_is_repeated_without_what_caused_it(sandbox: Sandbox) -> None:
    told = await live(
        sandbox,
        "a = 1; open('kept.txt', 'w').write('kept')",
        "import os; os._exit(1)",
        "b = open('kept.txt').read()",
        "c = 'a' in globals()",
    )
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        resumed = conversation.resumed
        assert (resumed.back, resumed.lost, resumed.skipped, resumed.failed) == (("b", "c"), (), (2,), ())
        assert "cell 2 (killed the kernel)" in resumed.text
        await works(conversation, "b, c", "('kept', False)")
    died_last = told[: next(i for i, e in enumerate(told) if isinstance(e, ExecutionFinished) and e.turn == 2) + 1]
    async with Agent(says(), sandbox=sandbox).resume(died_last) as conversation:
        assert (conversation.resumed.variables, conversation.resumed.lost) == ((), ())
        result = await conversation.session.run("open('kept.txt').read(), 'a' in globals()")
        assert (result.result, result.fresh_kernel) == ("('kept', False)", True)


async def test_it_can_be_stopped_and_keeps_what_there_is(sandbox: Sandbox) -> None:
    endless = "n = 1\nwhile True: pass"
    told: list[Event] = [START, *cell("a = 1", made("a")), *cell(endless, made("n")), *cell("b = 1", made("b"))]
    started: list[int] = []

    def watch(c: Cell, cells: int) -> None:
        started.append(c.number)
        if c.number == 2:
            conversation.cancel()

    conversation = Agent(says(code("print(a)"), "x"), sandbox=sandbox).resume(told, watch=watch)
    async with conversation:
        assert (conversation.resumed.back, conversation.resumed.unrun) == (("a",), (2, 3))
        assert "it was stopped: cell 2; cell 3." in conversation.resumed.text
        assert [v.name for v in conversation.resumed.lost] == ["n", "b"]
        await works(conversation, "a", "1")


async def test_running_code_is_interrupted_when_it_is_stopped(sandbox: Sandbox) -> None:
    told: list[Event] = [START, *cell("while True: pass", made("n")), *cell("b = 1", made("b"))]
    conversation = Agent(says(), sandbox=sandbox).resume(told)

    async def stop() -> None:
        await until(lambda: conversation.running_code, "code that runs")
        conversation.cancel()

    stopping = asyncio.create_task(stop())
    async with conversation:
        await stopping
        assert (conversation.resumed.failed, conversation.resumed.unrun) == ((1,), (2,))
        assert "cell 1 was stopped before its end" in conversation.resumed.text
        await works(conversation, "1", "1")


# --- what differs -------------------------------------------------------------------------------------------------


async def test_what_differs_is_told(sandbox: Sandbox) -> None:
    source = "import os\nflag = 'x' * len(os.listdir())\nif flag: extra = 1"
    told = await live(sandbox, "open('f', 'w')", source, "raise KeyError(1)", "1 / 0", "n = 5")
    swapped = [
        event.model_copy(update={"code": event.code.replace("open('f', 'w')", "pass").replace("1 / 0", "none")})
        if isinstance(event, ExecutionStarted)
        else event
        for event in told
    ]
    for events in (swapped, [e for e in swapped if not isinstance(e, RunFinished)]):
        async with Agent(says(), sandbox=sandbox).resume(events) as conversation:
            resumed = conversation.resumed
            assert [(a.name, a.length, b.length) for a, b in resumed.differing] == [("flag", 1, 0)]
            assert "Different now: flag (str, length 1), now (str, length 0)." in resumed.text
            assert ([v.name for v in resumed.lost], resumed.back, resumed.failed) == (["extra"], ("n",), (4,))
            assert (
                "cell 4 failed with NameError: name 'none' is not defined, then with ZeroDivisionError" in resumed.text
            )


async def test_new_errors_new_names_and_code_that_takes_longer_are_told(sandbox: Sandbox) -> None:
    failed = ExecutionResult(status="error", changes=StateChanges())
    cells = (
        cell("a = 1; 1 / 0", made("a")),
        cell("while True: pass", made()),
        cell("b = 2", failed),
        cell("import os; os._exit(1)", made("c")),
        cell("d = 4", made("d")),
        cell("e = 5"),
    )
    told = [START, *itertools.chain.from_iterable(cells)]
    async with Agent(says(), sandbox=sandbox, timeout=1).resume(told) as conversation:
        resumed = conversation.resumed
        assert (resumed.failed, resumed.skipped, resumed.back) == ((1, 2, 3, 4), (6,), ("d",))
        for line in (
            "cell 1 failed with ZeroDivisionError: division by zero",
            "cell 2 took too long",
            "cell 3 failed then and did not now",
            "cell 4 killed the kernel",
            "cell 6 (had not ended when the recording ended)",
            "Lost: a (int), of cell 1; c (int), of cell 4.",
        ):
            assert line in resumed.text


async def test_code_that_was_stopped_is_stopped_again_after_the_same_time(sandbox: Sandbox) -> None:
    told = await live(sandbox, "n = 0\nwhile True: n += 1", "m = 1", timeout=0.5)
    async with Agent(says(), sandbox=sandbox, timeout=60).resume(told) as conversation:
        assert (conversation.resumed.failed, set(conversation.resumed.back)) == ((), {"n", "m"})


async def test_names_that_the_kernel_does_not_tell_are_not_compared(sandbox: Sandbox) -> None:
    told = [START, *cell("a = 1", ExecutionResult(status="ok"))]
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        assert "they cannot be compared" in conversation.resumed.text
        await works(conversation, "a", "1")


# --- files --------------------------------------------------------------------------------------------------------


async def test_files_come_back_where_they_are_still_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    kept, changed, gone = (tmp_path / name for name in ("kept.txt", "changed.txt", "gone.txt"))
    for path in (kept, changed, gone):
        path.write_text("as it was")
    told = await live(
        sandbox, "all = [open(n + '.txt').read() for n in ('kept', 'changed')]", files=[kept, changed, gone]
    )
    start = told[0]
    assert isinstance(start, RunStarted) and start.given[0].path == str(kept) and start.given[0].size == 9
    changed.write_text("otherwise")
    gone.unlink()
    agent = Agent(says(), sandbox=sandbox)
    async with agent.resume(told) as conversation:
        resumed = conversation.resumed
        assert (resumed.files, resumed.missing_files) == (("kept.txt",), ("changed.txt", "gone.txt"))
        assert "changed.txt (it has changed since); gone.txt (it is not there any more)" in resumed.text
        assert resumed.failed == (1,) and [v.name for v in resumed.lost] == ["all"]
        assert [file.path for file in await conversation.session.files()] == ["kept.txt"]
    async with agent.resume(told, files=[changed]) as conversation:
        resumed = conversation.resumed
        assert (resumed.files, resumed.missing_files) == (("kept.txt", "changed.txt"), ("gone.txt",))
        assert "changed.txt (not the same as then)" in resumed.text and resumed.back == ("all",)
        assert conversation.restored == [kept, changed]


async def test_a_recording_cannot_ask_for_other_files_of_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("my secret")
    asked = (
        GivenFile(name="a", path=str(secret)),
        GivenFile(name="b", path=str(secret), size=9, sha256="0" * 64),
        GivenFile(
            name="c",
            path=str(secret),
            size=0,
            sha256=hashlib.sha256().hexdigest(),
        ),
        GivenFile(name="d", path="/dev/zero", size=0, sha256="0" * 64),
        GivenFile(name="e", path="x\0y", size=1, sha256="0" * 64),
    )
    told = [RunStarted(task="t", files=(*"abcde", "old"), given=asked), *cell("a = 1", made("a"))]
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        assert (conversation.resumed.missing_files, conversation.restored) == ((*"abcde", "old"), [])
        assert await conversation.session.files() == ()
        assert "old (the recording does not say where it was)" in conversation.resumed.text


# --- recordings that end early, that were resumed, that are branches ----------------------------------------------


async def test_a_recording_that_was_cut_off(sandbox: Sandbox, tmp_path: Path) -> None:
    told = await live(sandbox, "a = 1; print('first')", "b = 2; print('second')", "c = 3")
    executed = [i for i, event in enumerate(told) if isinstance(event, ExecutionFinished)]
    path = tmp_path / "cut.jsonl"
    save(path, told[: executed[1] + 1])
    with path.open("ab") as file:
        file.write(b'{"type":"observed","tu')
    async with served("Done.") as (server, model):
        writer, found = TrajectoryWriter.reopen(path)
        assert found.torn and len(found.events) == executed[1] + 1
        with writer:
            async with Agent(model, sandbox=sandbox).resume(found) as conversation:
                assert set(conversation.resumed.back) == {"a", "b"}
                await collect(conversation, "Go on.")
                for event in conversation.events[conversation.recorded :]:
                    writer.write(event)
        read = [message["content"] for message in server.requests[0]["messages"]]
        assert "second" in read[-2] or "second" in read[-1], "the outcome that was not shown is shown now"
        assert not any("was not run" in text for text in read)
    again = load(path)
    assert not again.torn and again.events == tuple(conversation.events)
    assert [e.reason for e in again.events if isinstance(e, RunFinished)] == ["cancelled", "answered"]
    in_the_code = told[: executed[1]]
    async with Agent(says("x", "x", "Done."), sandbox=sandbox).resume(in_the_code) as conversation:
        assert (conversation.resumed.back, conversation.resumed.skipped) == (("a",), (2,))
        assert end_of(await collect(conversation, "Go on.")).answer == "Done."


async def test_what_was_resumed_can_be_resumed(sandbox: Sandbox) -> None:
    told = await live(sandbox, "a = 1", "b = [1]")
    async with Agent(says("x", "x", "x", code("b += [2]; c = 3"), "Two."), sandbox=sandbox).resume(
        told
    ) as conversation:
        await collect(conversation, "Go on.")
        told = list(conversation.events)
    async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
        assert set(conversation.resumed.back) == {"a", "b", "c"} and conversation.resumed.cells == 3
        await works(conversation, "b", "[1, 2]")
        assert sum(isinstance(event, Resumed) for event in conversation.events) == 2


@pytest.mark.skipif(not image.is_possible(), reason="sessions are forked on x86-64 only")
async def test_a_branch_that_was_not_chosen_can_be_resumed(sandbox: Sandbox) -> None:
    verdicts = iter((False, True))
    replies = (code("tried = [0]"), "Ready.", code("tried.append(len(tried))"), "Done.")
    async with talk(sandbox, says(*replies)) as conversation:
        await collect(conversation, "Begin.")
        outcome = await conversation.best_of(2, lambda result, session: next(verdicts), "Try.")
        chosen = list(conversation.events)
    assert outcome.best is not None
    other = [*outcome.before, *outcome.results[1 - outcome.best].events]
    assert other != chosen
    for told in (chosen, other):
        async with Agent(says(), sandbox=sandbox).resume(told) as conversation:
            await works(conversation, "tried", "[0, 1]")
            assert conversation.resumed.back == ("tried",) and conversation.resumed.cells == 2


async def test_what_cannot_be_resumed_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    agent = Agent(says(), sandbox=sandbox)
    (tmp_path / "not.jsonl").write_text("hello\n")
    with pytest.raises(TrajectoryError):
        agent.resume(tmp_path / "not.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        agent.resume(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError, match="nothing to resume"):
        agent.resume([])


async def test_the_format_is_that_of_the_recording(sandbox: Sandbox) -> None:
    agent = Agent(says("x", "```python\nn = 1\n```", "Done."), sandbox=sandbox)
    told: list[Event] = [RunStarted(task="t", format="fences"), ModelReplied(turn=1, reply=Reply(text="x", answer="x"))]
    async with agent.resume(told) as conversation:
        assert conversation.format.name == "fences"
