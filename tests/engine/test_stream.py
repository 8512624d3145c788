"""Events of an execution: bounded, numbered, resumed."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.contracts import ExecutionResult, StreamOutput
from codeact.engine.errors import told
from codeact.engine.stream import Event, Execution
from codeact.errors import KernelStartError, StateLost, ToolError
from codeact.sandbox.api import Answer


def made(buffer: int = 1 << 20, call: float = 30) -> Execution:
    return Execution(None, buffer, call, asyncio.Event())


def write(execution: Execution, text: str) -> None:
    execution.output(StreamOutput(name="stdout", text=text))


async def read(execution: Execution, after: int = 0) -> list[Event]:
    return [event async for event in execution.events(after) if event is not None]


@given(st.lists(st.text(max_size=300), max_size=30), st.integers(1 << 10, 1 << 13), st.integers(0, 40))
def test_nothing_is_lost_without_a_word(texts: list[str], room: int, after: int) -> None:
    async def main() -> None:
        execution = made(room)
        execution.begin()
        for text in texts:
            write(execution, text)
        execution.finish(ExecutionResult(status="ok"))
        events = await read(execution, min(after, execution.last))
        lost = sum(json.loads(e.data)["lost"] for e in events if e.kind == "gap")
        kept = [e for e in events if e.kind != "gap"]
        assert lost + len(kept) == max(0, len(texts) + 3 - after)
        assert [e.number for e in events] == sorted({e.number for e in events})
        assert not kept or kept[-1].kind == "result"
        for event in kept:
            if event.kind == "output":
                assert StreamOutput.model_validate_json(event.data).text == texts[event.number - 3]
            assert event.wire.count(b"\n") == 4

    asyncio.run(main())


async def test_readers_follow_while_it_runs_and_are_told_that_it_lives() -> None:
    execution = made()
    events = execution.events(beat=0.01)
    first = await anext(events)
    assert first is not None and first.kind == "queued" and await anext(events) is None
    waiting = asyncio.create_task(read(execution))
    await asyncio.sleep(0)
    write(execution, "x")
    execution.finish(StateLost("gone"))
    execution.finish(ExecutionResult(status="ok"))  # too late
    seen = await waiting
    assert [e.kind for e in seen] == ["queued", "output", "error"]
    assert json.loads(seen[-1].data) == {"code": "state_lost", "message": "gone"}
    assert isinstance(execution.failure, StateLost) and execution.result is None
    assert told(KernelStartError("x")) == (503, "kernel_start")


async def test_calls_wait_for_their_answer_and_no_longer() -> None:
    execution = made(call=0.05)
    with pytest.raises(ToolError, match=r"nobody answered the call within 0\.05 seconds"):
        await execution.ask("t", {})
    assert not execution.calls
    asked = asyncio.create_task(execution.ask("t", {"a": [1]}))
    await asyncio.sleep(0)
    (call,) = execution.calls.values()
    assert call.arguments == {"a": [1]} and not execution.answer("other", Answer(result=1))
    assert execution.answer(call.id, Answer(result={"r": 1}))
    assert not execution.answer(call.id, Answer(result=2))
    assert await asked == {"r": 1}
    asked = asyncio.create_task(execution.ask("t", {}))
    await asyncio.sleep(0)
    (call,) = execution.calls.values()
    assert execution.answer(call.id, Answer(error="no", kind="refused", type_name="ValueError"))
    with pytest.raises(ToolError, match="no") as refused:
        await asked
    assert (refused.value.kind, refused.value.type_name) == ("refused", "ValueError")
