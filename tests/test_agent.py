"""The loop: budgets, cancelling, what breaks on the way, and what lives from message to message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import Finish, ModelChunk, ModelRequest, Sandbox, TextDelta, Usage, UsageReport
from codeact.errors import FileTransferError, SessionClosed, UsageError
from codeact.events import (
    EVENT,
    LIVE,
    Event,
    ExecutionFinished,
    ExecutionOutput,
    ExecutionStarted,
    ModelDelta,
    ModelReplied,
    Notice,
    Observed,
    RunFinished,
    RunStarted,
    TurnStarted,
)
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools import tool
from tests.conversations import LOOP, begun, code, collect, end_of, observed, says, served, stdout, talk, works
from tests.sandbox.processes import children, until
from tests.servers import Behaviour, ScriptedServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER_BEHAVIOURS: tuple[Behaviour, ...] = (
    "good", "good", "json", "no-finish", "no-done", "429", "500", "reset", "truncated", "cut-chunk", "malformed",
    "error-event", "quota", "404", "html", "stalls", "endless",
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


# --- one run ------------------------------------------------------------------------------------------------------


async def test_the_events_of_a_run(sandbox: Sandbox) -> None:
    model = says(f"First a look.\n{code('n = 6 * 7; print(n)')}", "It is 42.")
    result = await Agent(model, sandbox=sandbox, instructions="Be brief.").arun("What is 6 * 7?")
    kinds = [event.type for event in result.events if not isinstance(event, LIVE)]
    assert kinds == [
        "run_started",
        "turn_started",
        "model_replied",
        "execution_started",
        "execution_finished",
        "observed",
        "turn_started",
        "model_replied",
        "run_finished",
    ]
    start = result.events[0]
    assert isinstance(start, RunStarted)
    assert (start.task, start.model, start.format, start.sandbox) == ("What is 6 * 7?", "replay", "tags", "local")
    assert "<execute>" in start.prompt and "numpy" in start.prompt and start.prompt.endswith("Be brief.")
    assert [event.turn for event in result.events if isinstance(event, TurnStarted)] == [1, 2]
    reply = next(event.reply for event in result.events if isinstance(event, ModelReplied))
    assert (reply.thought, reply.code) == ("First a look.", "n = 6 * 7; print(n)")
    assert (result.answer, result.reason, result.message) == ("It is 42.", "answered", "")
    assert result.end is result.events[-1] and (result.end.turns, result.end.executions) == (2, 1)
    assert 0 < result.end.code_time < result.end.duration and 0 < result.end.model_time < result.end.duration


async def test_every_event_survives_json(sandbox: Sandbox) -> None:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('\\ud83d é')\n1 / 0"
    result = await Agent(says(code(plot), code("x = 1"), "Done."), sandbox=sandbox).arun("Draw.")
    assert any(event.images for event in result.events if isinstance(event, Observed))
    for event in result.events:
        assert EVENT.validate_json(EVENT.dump_json(event)) == event


async def test_live_events_are_repeated_whole(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(code("print(1)\nprint(2)"), "Done.")) as conversation:
        seen = await collect(conversation)
    assert "".join(e.output.text for e in seen if isinstance(e, ExecutionOutput) and e.output.type == "stream") == (
        stdout(seen)
    )
    live = "".join(event.text for event in seen if isinstance(event, ModelDelta) and event.kind == "code")
    assert live.strip() == "print(1)\nprint(2)"
    assert conversation.events == [event for event in seen if not isinstance(event, LIVE)]


async def test_what_the_model_reads_is_cut_as_asked(sandbox: Sandbox) -> None:
    model = says(code("print('x' * 5000)"), "Done.")
    result = await Agent(model, sandbox=sandbox, observation_limit=100).arun("Go.")
    assert len(observed(result.events)[0]) < 300 and "left out here" in observed(result.events)[0]


async def test_settings_reach_the_server(sandbox: Sandbox) -> None:
    async with served("Done.") as (server, model):
        await Agent(model, sandbox=sandbox, max_tokens=77, temperature=0.5).arun("Go.")
    assert (server.requests[0]["max_tokens"], server.requests[0]["temperature"]) == (77, 0.5)


async def test_a_model_by_name_is_looked_for_where_the_environment_says(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer([code("print(6 * 7)"), "It is 42."], known_models=["named"], api_key="from-the-env") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-env")
        result = await Agent("named", sandbox=sandbox).arun("Go.")
        monkeypatch.delenv("CODEACT_MODEL", raising=False)
        unnamed = await Agent(sandbox=sandbox).arun("Go.")
    assert (result.answer, stdout(result.events)) == ("It is 42.", "42\n")
    start = unnamed.events[0]
    assert isinstance(start, RunStarted) and start.model == "named", "the server's first model"


# --- cancelling ---------------------------------------------------------------------------------------------------


async def test_cancel_while_the_model_speaks(sandbox: Sandbox) -> None:
    async with served("I think that", "All well.", behaviours=["stalls", "good"]) as (server, model):
        async with talk(sandbox, model) as conversation:
            await conversation.session.run("kept = 1")
            cancelled = False

            def cancel(event: Event) -> None:
                nonlocal cancelled
                if isinstance(event, ModelDelta) and not cancelled:
                    cancelled = True
                    asyncio.get_running_loop().call_soon(conversation.cancel)

            end = end_of(await collect(conversation, each=cancel))
            assert (end.reason, end.message, end.answer) == ("cancelled", "the run was cancelled", None)
            assert await asyncio.to_thread(server.disconnected.wait, 10), "the connection stayed open"
            assert end_of(await collect(conversation, "again")).reason == "answered"
            await works(conversation, "kept", "1")


async def test_cancel_while_code_runs(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(LOOP, "All well.")) as conversation:
        await conversation.session.run("kept = 1")
        seen = await collect(conversation, each=lambda event: conversation.cancel() if begun(event) else None)
        assert end_of(seen).reason == "cancelled"
        assert [e.result.status for e in seen if isinstance(e, ExecutionFinished)] == ["interrupted"]
        await works(conversation, "kept + half", "3")
        assert end_of(await collect(conversation, "and now?")).answer == "All well."


@pytest.mark.parametrize("kind", [RunStarted, TurnStarted, ModelReplied, ExecutionStarted])
async def test_cancel_at_an_event_keeps_code_from_running(sandbox: Sandbox, kind: type[Event]) -> None:
    async with talk(sandbox, says(code("ran = 1"), "All well.")) as conversation:
        seen = await collect(conversation, each=lambda e: conversation.cancel() if isinstance(e, kind) else None)
        assert end_of(seen).reason == "cancelled" and end_of(seen).executions == 0
        await works(conversation, "'ran' in globals()", "False")


async def test_cancel_of_nothing_does_nothing(sandbox: Sandbox) -> None:
    async with talk(sandbox, says("All well.")) as conversation:
        conversation.cancel()
        assert end_of(await collect(conversation)).answer == "All well."


async def test_a_watcher_that_leaves_stops_the_code(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(LOOP, "All well.")) as conversation:
        async with contextlib.aclosing(conversation.send("go")) as told:
            async for event in told:
                if begun(event):
                    break
        end = conversation.events[-1]
        assert isinstance(end, RunFinished) and end.reason == "cancelled"
        await works(conversation, "half", "2")
        assert end_of(await collect(conversation, "again")).answer == "All well."


class Endless:
    """A model that never ends by itself, and knows whether its stream was closed."""

    name = "endless"
    accepts_images = False
    context_window: int | None = None

    def __init__(self) -> None:
        self.open = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk]:
        self.open += 1
        try:
            while True:
                yield TextDelta(text="on and on ")
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def close(self) -> None: ...


async def test_a_watcher_that_leaves_closes_the_models_stream_at_once(sandbox: Sandbox) -> None:
    model = Endless()
    async with talk(sandbox, model) as conversation:
        async with contextlib.aclosing(conversation.send("go")) as told:
            async for event in told:
                if isinstance(event, ModelDelta):
                    assert model.open == 1
                    break
        assert model.open == 0, "closed when the watcher's own stream is, not when somebody collects garbage"


@pytest.mark.parametrize("moment", [ModelDelta, ExecutionOutput])
async def test_a_cancelled_task_leaves_a_usable_conversation(sandbox: Sandbox, moment: type[Event]) -> None:
    async with served(LOOP, "All well.", behaviours=["stalls", "good"] if moment is ModelDelta else "good") as (
        _,
        model,
    ):
        async with talk(sandbox, model) as conversation:
            there = asyncio.Event()
            told = collect(conversation, each=lambda event: there.set() if isinstance(event, moment) else None)
            task = asyncio.create_task(told)
            await asyncio.wait_for(there.wait(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            end = conversation.events[-1]
            assert isinstance(end, RunFinished) and end.reason == "cancelled"
            assert (await conversation.session.run("1 + 1")).result == "2"


# --- what the model is told ---------------------------------------------------------------------------------------


async def test_the_same_error_three_times_is_called_a_loop(sandbox: Sandbox) -> None:
    wrong = code("int('x')")
    model = says(wrong, wrong, code("1 / 0"), wrong, wrong, wrong, code("pass"), wrong, "Sorry.")
    result = await Agent(model, sandbox=sandbox).arun("Go.")
    looped = [n for n, text in enumerate(observed(result.events), 1) if "you are in a loop" in text]
    assert looped == [6]
    assert "The same error (ValueError) has now come 3 times in a row" in observed(result.events)[5]


async def test_an_empty_block_is_told(sandbox: Sandbox) -> None:
    result = await Agent(says("<execute>\n\n</execute>", "Done."), sandbox=sandbox).arun("Go.")
    assert observed(result.events) == ["The code block was empty, so nothing was run."]
    assert (result.answer, result.end.turns, result.end.executions) == ("Done.", 2, 0)


async def test_an_empty_reply_is_told(sandbox: Sandbox) -> None:
    async with served("", "<think>Hm, that", "Done.") as (server, model):
        result = await Agent(model, sandbox=sandbox).arun("Go.")
    assert [text.partition(":")[0] for text in observed(result.events)] == [
        "The reply was empty",
        "The reply ended within its reasoning",
    ]
    assert result.answer == "Done." and len(server.requests) == 3


async def test_what_stands_behind_the_first_action_is_dropped_and_told(sandbox: Sandbox) -> None:
    two = f"{code('print(1)')}\n{code('print(2)')}"
    result = await Agent(says(two, "Done."), sandbox=sandbox).arun("Go.")
    assert stdout(result.events) == "1\n"
    assert observed(result.events)[0].endswith("everything after it was ignored. Send one per reply.")


class CutShort:
    """A model that runs into a limit of length."""

    name = "short"
    accepts_images = False
    context_window: int | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk]:
        yield TextDelta(text="<execute>print('begun')\nprint('unfin")
        yield UsageReport(usage=Usage(prompt_tokens=1))
        yield Finish(reason="length")

    async def close(self) -> None: ...


async def test_a_reply_cut_off_by_a_limit_of_length_is_told_to_both(sandbox: Sandbox) -> None:
    async with talk(sandbox, CutShort(), budget=Budget(turns=1)) as conversation:
        seen = await collect(conversation)
        assert [event.text for event in seen if isinstance(event, Notice)] == [
            "The reply was cut off at the greatest length allowed."
        ]
        assert "cut off at the greatest length" in conversation.context.messages(conversation.events)[-1].text


# --- several messages ---------------------------------------------------------------------------------------------


async def test_kernel_and_history_live_from_message_to_message(sandbox: Sandbox) -> None:
    async with served(code("secret = 6 * 7"), "Noted.", code("print(secret)"), "It was 42.") as (server, model):
        async with talk(sandbox, model) as conversation:
            assert end_of(await collect(conversation, "Compute it.")).answer == "Noted."
            seen = await collect(conversation, "What was it?")
            assert end_of(seen).answer == "It was 42." and stdout(seen) == "42\n"
            starts = [event for event in conversation.events if isinstance(event, RunStarted)]
    assert [start.task for start in starts] == ["Compute it.", "What was it?"]
    roles = [message["role"][0] for message in server.requests[3]["messages"]]
    assert "".join(roles) == "suauauau"
    texts = [message["content"] for message in server.requests[3]["messages"]]
    assert texts[1] == "Compute it." and texts[4] == "Noted." and texts[5] == "What was it?"


async def test_runs_have_sessions_of_their_own(sandbox: Sandbox) -> None:
    agent = Agent(says(code("print('mine' in globals()); mine = 1"), "Done."), sandbox=sandbox)
    assert [stdout((await agent.arun("Go.")).events) for _ in range(2)] == ["False\n", "False\n"]


async def test_runs_can_be_side_by_side(sandbox: Sandbox) -> None:
    agents = [Agent(says(code(f"n = {n}\nprint(n * n)"), "Done."), sandbox=sandbox) for n in range(4)]
    results = await asyncio.gather(*(agent.arun("Go.") for agent in agents))
    assert [stdout(result.events) for result in results] == ["0\n", "1\n", "4\n", "9\n"]


# --- files --------------------------------------------------------------------------------------------------------


async def test_files_are_put_and_named(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n3\n4\n")
    (tmp_path / "é b.txt").write_bytes(bytes(range(256)))
    async with served(code("print(open('a.csv').read(), len(open('é b.txt', 'rb').read()))"), "Done.") as (
        server,
        model,
    ):
        result = await Agent(model, sandbox=sandbox).arun("Sum.", files=[tmp_path / "a.csv", str(tmp_path / "é b.txt")])
    assert stdout(result.events) == "n\n3\n4\n 256\n"
    start = result.events[0]
    assert isinstance(start, RunStarted) and start.files == ("a.csv", "é b.txt")
    assert server.requests[0]["messages"][1]["content"] == "Sum.\n\nFiles in /workspace: a.csv, é b.txt"


async def test_what_cannot_be_asked_is_refused_before_anything_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "twin.txt").write_text("1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "twin.txt").write_text("2")
    async with talk(sandbox, says("Done.")) as conversation:
        for task, files, message in (
            ("", [], "the task is empty"),
            (" \n\t", [], "the task is empty"),
            ("go", [tmp_path / "missing.txt"], r"cannot read the file .*missing\.txt: No such file"),
            ("go", [tmp_path / "other"], r"other is not a plain file"),
            ("go", [tmp_path / "twin.txt", tmp_path / "other" / "twin.txt"], r"two files are called twin\.txt"),
        ):
            with pytest.raises(UsageError, match=message):
                await anext(conversation.send(task, files))
        assert conversation.events == []
        assert end_of(await collect(conversation)).answer == "Done."


async def test_a_file_that_the_workspace_does_not_take_is_told(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 2000)
    async with open_sandbox("local", file=1000) as small:
        with pytest.raises(FileTransferError, match=r"large: larger than the limit of 1000 bytes"):
            await Agent(says("Done."), sandbox=small).arun("Go.", files=[tmp_path / "large"])


async def test_what_the_agent_cannot_be_made_of() -> None:
    for options, message in (
        ({"sandbox": "cloud"}, "no sandbox of kind 'cloud'"),
        ({"format": "xml"}, "unknown action format 'xml'"),
    ):
        with pytest.raises(UsageError, match=message):
            await Agent(says("Done."), **options).arun("Go.")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"gone\.gguf"):
        await Agent("gone.gguf").arun("Go.")


# --- tools --------------------------------------------------------------------------------------------------------


@tool
def price_of(fruit: str) -> float:
    """The price of a fruit."""
    return {"apple": 0.4}[fruit]


async def test_tools_are_told_to_the_model_and_work(sandbox: Sandbox) -> None:
    model = says(code("print(price_of('apple') * 10)\nprice_of('durian')"), "Done.")
    result = await Agent(model, sandbox=sandbox, tools=[price_of]).arun("Go.")
    start = result.events[0]
    assert isinstance(start, RunStarted) and "price_of(fruit: str) -> float: The price of a fruit." in start.prompt
    assert stdout(result.events) == "4.0\n" and "price_of failed: KeyError: 'durian'" in observed(result.events)[0]


# --- what breaks --------------------------------------------------------------------------------------------------


async def test_the_kernels_death_is_told_and_survived(sandbox: Sandbox) -> None:
    model = says(
        code("first = 1\nsecond = 2"),
        code("import os; os._exit(3)"),
        code("print('first' in globals())"),
        "Done.",
    )
    result = await Agent(model, sandbox=sandbox).arun("Go.")
    died, fresh = observed(result.events)[1:]
    assert "The kernel died" in died and "first, second" in died
    assert "exited with status 3" in died and "Files in /workspace are kept" in died
    assert fresh.startswith("False") and "new kernel" in fresh
    assert result.answer == "Done."


@pytest.mark.parametrize("moment", [ExecutionStarted, ExecutionOutput])
async def test_a_broken_sandbox_ends_the_run(sandbox: Sandbox, moment: type[Event]) -> None:
    async with talk(sandbox, says(LOOP)) as conversation:
        seen: list[Event] = []
        async for event in conversation.send("go"):
            seen.append(event)
            if isinstance(event, moment):
                await conversation.session.close()
        end = end_of(seen)
        assert end.reason == "sandbox_error" and "closed" in end.message and "\n" not in end.message
        assert end is conversation.events[-1]


async def test_a_model_server_that_fails_ends_the_run(sandbox: Sandbox) -> None:
    async with served(code("print(1)"), behaviours=["good", "500"], model={"max_retries": 0}) as (_, model):
        async with talk(sandbox, model) as conversation:
            end = end_of(await collect(conversation))
            assert end.reason == "model_error" and "500" in end.message and end.executions == 1
            await works(conversation, "1 + 1", "2")


async def test_a_departed_recording_ends_the_run(sandbox: Sandbox) -> None:
    result = await Agent(says(code("print(1)")), sandbox=sandbox).arun("Go.")
    assert result.reason == "model_error" and "turn 2 is asked for, and the recording holds 1" in result.message


class Mistaken:
    """A model class with a mistake in it."""

    name = "mistaken"
    accepts_images = False
    context_window: int | None = None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk]:
        yield TextDelta(text="I")
        raise LookupError("what a mistake")

    async def close(self) -> None: ...


async def test_a_mistake_is_recorded_and_raised(sandbox: Sandbox) -> None:
    async with talk(sandbox, Mistaken()) as conversation:
        with pytest.raises(LookupError, match="what a mistake"):
            await collect(conversation)
        end = conversation.events[-1]
        assert isinstance(end, RunFinished)
        assert (end.reason, end.message) == ("error", "LookupError: what a mistake")
        await works(conversation, "1 + 1", "2")


@pytest.mark.parametrize("seed", range(12))
async def test_every_run_ends_with_one_end_whatever_the_server_does(sandbox: Sandbox, seed: int) -> None:
    chance = random.Random(seed)
    behaviours = [chance.choice(OTHER_BEHAVIOURS) for _ in range(8)]
    choices = (code("print(1)"), code("1 / 0"), "<execute></execute>", "", code("import os; os._exit(1)"), "Done.")
    replies = [chance.choice(choices) for _ in range(8)]
    limits = {"max_retries": 2, "timeout": 0.2, "max_reply_chars": 2000}
    async with served(*replies, behaviours=behaviours, model=limits, retry_after="0") as (_, model):
        async with talk(sandbox, model, budget=Budget(turns=4)) as conversation:
            seen = await collect(conversation)
            assert (await conversation.session.run("1 + 1")).result == "2"
    end = end_of(seen)
    assert isinstance(seen[0], RunStarted)
    assert (end.answer is not None) == (end.reason == "answered") and bool(end.message) == (end.reason != "answered")
    assert end.reason in ("answered", "turns", "model_error"), end
    assert end.turns == sum(isinstance(event, TurnStarted) for event in seen)
    assert end.executions == sum(isinstance(event, ExecutionFinished) for event in seen)
    assert [EVENT.validate_json(EVENT.dump_json(event)) for event in seen] == seen
    assert json.loads(end.model_dump_json())["type"] == "run_finished"


# --- what the agent leaves behind ---------------------------------------------------------------------------------


async def test_the_agent_closes_what_it_opened() -> None:
    before = set(children(os.getpid()))
    during: set[int] = set()
    agent = Agent(says(code("print(6 * 7)"), "Done."), sandbox="local")
    async for event in agent.stream("Go."):
        during |= set(children(os.getpid())) - before
        last = event
    assert isinstance(last, RunFinished) and last.answer == "Done." and during
    await until(lambda: set(children(os.getpid())) <= before, "the agent's processes end")


async def test_the_agent_closes_what_it_opened_when_the_watcher_leaves() -> None:
    before = set(children(os.getpid()))
    async with contextlib.aclosing(Agent(says(LOOP), sandbox="local").stream("Go.")) as told:
        async for event in told:
            if begun(event):
                assert set(children(os.getpid())) - before
                break
    await until(lambda: set(children(os.getpid())) <= before, "the agent's processes end")


async def test_the_agent_leaves_open_what_it_was_given(sandbox: Sandbox) -> None:
    async with served("One.", "Two.") as (server, model):
        agent = Agent(model, sandbox=sandbox)
        assert [(await agent.arun("Go.")).answer for _ in range(2)] == ["One.", "Two."]
        assert server.connections == 1, "the connection serves both runs"
    session = await sandbox.session()
    await session.close()


async def test_a_conversation_that_is_left_has_closed_its_session(sandbox: Sandbox) -> None:
    async with talk(sandbox, says("Done.")) as conversation:
        await works(conversation, "1 + 1", "2")
    with pytest.raises(SessionClosed):
        await conversation.session.run("1")
