"""A recorded model says what it said, and notices when it is asked something else."""

from __future__ import annotations

import pytest

from codeact.contracts import (
    ExecutionResult,
    Finish,
    Message,
    Model,
    ModelRequest,
    Reply,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from codeact.errors import ReplayDeparted
from codeact.events import Event, ExecutionFinished, ModelReplied, Observed, RunFinished, RunStarted
from codeact.models.replay import ReplayModel

FIRST = "Let me see.\n<execute>print(42)</execute>"
EVENTS: list[Event] = [
    RunStarted(task="What is 6 * 7?", model="gpt-9"),
    ModelReplied(
        turn=1, reply=Reply(text=FIRST, code="print(42)"), usage=Usage(prompt_tokens=100, completion_tokens=9)
    ),
    ExecutionFinished(turn=1, result=ExecutionResult(status="ok")),
    Observed(turn=1, text="42\nTook 0.1 s"),
    ModelReplied(turn=2, reply=Reply(text="It is 42.", answer="It is 42.")),
    RunFinished(reason="answered", answer="It is 42."),
]
TASK = Message(role="user", text="What is 6 * 7?")
SAID = Message(role="assistant", text=FIRST)
SHOWN = Message(role="user", text="Execution Output:\n42\nTook 0.1 s")


async def say(model: Model, *messages: Message) -> tuple[str, UsageReport, str | None]:
    text, report, reason = "", None, None
    async for chunk in model.stream(ModelRequest(messages=messages)):
        match chunk:
            case TextDelta():
                text += chunk.text
            case UsageReport():
                report = chunk
            case Finish():
                reason = chunk.reason
    assert report is not None
    return text, report, reason


@pytest.mark.parametrize("strict", [True, False])
async def test_a_recorded_conversation_is_said_again(strict: bool) -> None:
    model = ReplayModel.from_events(EVENTS, strict=strict)
    assert isinstance(model, Model)
    for _ in range(2):  # any number of conversations
        text, report, reason = await say(model, TASK)
        assert (text, report.usage, reason) == (FIRST, Usage(prompt_tokens=100, completion_tokens=9), "stop")
        text, report, _ = await say(model, TASK, SAID, SHOWN)
        assert text == "It is 42."
        assert report.usage.estimated
    assert model.description == "replay of gpt-9 (2 recorded replies)"


async def test_it_comes_in_pieces() -> None:
    chunks = [chunk async for chunk in ReplayModel([" a  b\n\nc \n"]).stream(ModelRequest(messages=(TASK,)))]
    assert [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)] == [" a", "  b", "\n\nc", " \n"]


async def test_tool_calls_are_said_again() -> None:
    call = ToolCall(id="c1", name="execute", arguments='{"code": "print( 42 )"}')
    model = ReplayModel([Reply(text="Let me see.", code="print( 42 )", tool_call=call), "It is 42."])
    chunks = [chunk async for chunk in model.stream(ModelRequest(messages=(TASK,)))]
    calls = [chunk for chunk in chunks if isinstance(chunk, ToolCallDelta)]
    assert (calls[0].id, calls[0].name, "".join(c.arguments for c in calls)) == ("c1", "execute", call.arguments)
    assert chunks[-1] == Finish(reason="tool_calls")
    said = Message(role="assistant", text="Let me see.", tool_call=call)
    shown = Message(role="tool", text="42", tool_call_id="c1")
    assert (await say(model, TASK, said, shown))[0] == "It is 42."
    other = said.model_copy(update={"tool_call": call.model_copy(update={"arguments": "{}"})})
    with pytest.raises(ReplayDeparted, match=r"turn 1 .* another tool call"):
        await say(model, TASK, other, shown)


async def test_no_more_replies() -> None:
    model = ReplayModel.from_events(EVENTS)
    with pytest.raises(ReplayDeparted, match="turn 3 is asked for, and the recording holds 2"):
        await say(model, TASK, SAID, SHOWN, Message(role="assistant", text="It is 42."), TASK)
    with pytest.raises(ReplayDeparted, match="holds 0"):
        await say(ReplayModel([]), TASK)


async def test_another_history_departs() -> None:
    other = Message(role="assistant", text="Let me see.\n<execute>print(43)</execute>")
    with pytest.raises(ReplayDeparted, match=r"turn 1 .*line 2 was '<execute>print\(42\).*now '<execute>print\(43\)"):
        await say(ReplayModel.from_events(EVENTS), TASK, other, SHOWN)


async def test_raw_texts_may_have_been_cut_by_the_format() -> None:
    model = ReplayModel([FIRST + " Then I guess it is 41.", "It is 42."])
    assert (await say(model, TASK, SAID, SHOWN))[0] == "It is 42."


async def test_only_strict_compares_what_the_model_reads() -> None:
    changed = SHOWN.model_copy(update={"text": "Execution Output:\n42\nTook 0.2 s"})
    assert (await say(ReplayModel.from_events(EVENTS), TASK, SAID, changed))[0] == "It is 42."
    strict = ReplayModel.from_events(EVENTS, strict=True)
    with pytest.raises(ReplayDeparted, match=r"before turn 2 .*line 2 was 'Took 0\.1 s', now 'Took 0\.2 s'"):
        await say(strict, TASK, SAID, changed)
    with pytest.raises(ReplayDeparted, match=r"before turn 1 .*6 \* 8"):
        await say(strict, Message(role="user", text="What is 6 * 8?"))
