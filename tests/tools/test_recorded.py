"""Recorded tools answer as they did, in order, and do nothing."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from codeact.contracts import ExecutionResult, HostTool, Sandbox
from codeact.errors import ToolError
from codeact.events import ToolCalled
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools import Recording, tool

called: list[str] = []


@tool
def rate(currency: str, day: int = 1) -> float:
    """Euros for one unit of the currency."""
    called.append(currency)
    return 99.0


def call(name: str, result: JsonValue = None, error: str | None = None, **arguments: JsonValue) -> ToolCalled:
    return ToolCalled(turn=1, id="c", tool=name, arguments=arguments, result=result, error=error)


def test_equal_calls_are_answered_in_order_and_others_apart() -> None:
    recording = Recording(
        [call("f", 1, x=1), call("f", 2, x=2), call("f", 3, x=1), call("g", 4, x=1), call("f", error="gone", x=1)]
    )
    assert [recording.answer("f", {"x": 1}), recording.answer("f", {"x": 1})] == [1, 3]
    assert [recording.answer("g", {"x": 1}), recording.answer("f", {"x": 2})] == [4, 2]
    with pytest.raises(ToolError, match=r"^gone$"):
        recording.answer("f", {"x": 1})
    with pytest.raises(ToolError, match=r"does not hold the call f\(\"x\": 1\): it holds no further call of f"):
        recording.answer("f", {"x": 1})


def test_a_call_with_other_arguments_is_not_answered() -> None:
    recording = Recording([call("f", 1, x=1)])
    for arguments in ({"x": True}, {"x": 1.0}, {"x": "1"}, {}, {"x": 1, "y": None}):
        with pytest.raises(ToolError, match="it holds 1 other calls of f"):
            recording.answer("f", arguments)
    assert recording.answer("f", {"x": 1}) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.sampled_from("fg"), st.dictionaries(st.sampled_from("xy"), JSON)), max_size=8))
def test_every_recorded_call_is_answered_once(calls: list[tuple[str, dict[str, JsonValue]]]) -> None:
    told = [ToolCalled(turn=1, id=str(n), tool=name, arguments=a, result=n) for n, (name, a) in enumerate(calls)]
    recording = Recording(told)
    answers = [recording.answer(name, dict(reversed(a.items()))) for name, a in calls]
    assert sorted(answers) == list(range(len(calls))), "none twice"  # type: ignore[type-var]
    for name, arguments in calls:
        with pytest.raises(ToolError):
            recording.answer(name, arguments)


def test_many_calls_are_found_at_once() -> None:
    calls = [call("f", n, x=n, y=1) for n in range(10_000)]
    recording, partly = Recording(calls), Recording(calls)
    assert [recording.answer("f", {"x": n, "y": 1}) for n in reversed(range(10_000))] == list(reversed(range(10_000)))
    assert [partly.answer("f", {"x": n, "y": None}, partly=True) for n in range(10_000)] == list(range(10_000))


def test_a_live_tool_lends_its_looks_and_is_called_when_the_recording_is_released() -> None:
    recording = Recording([call("rate", 0.5, currency="USD", day=1), call("gone", 1)], [rate])
    live, gone = recording.tools
    assert isinstance(live, HostTool) and isinstance(gone, HostTool)
    assert (live.stub, live.description) == (rate.stub, rate.description)
    assert live.call({"currency": "USD", "day": 1}) == 0.5
    recording.release()
    with pytest.raises(ToolError, match="gone was here when the conversation was recorded"):
        gone.call({})
    assert "not any more" in gone.description
    assert called == []


def test_names_that_are_none_get_no_stub() -> None:
    recording = Recording([call("x; import os"), call("class"), call("f", 1, None, **{"x); print(1": 1})])
    (only,) = recording.tools
    assert only.name == "f"
    assert [node.name for node in ast.parse(only.stub).body if isinstance(node, ast.FunctionDef)] == ["f"]
    assert only.call({}) == 1, "an argument that nobody can name"


class Careful:
    """A live tool with more than the contract asks for."""

    name, stub, description = "f", "def f(): ...", "f()"
    rules = "its rules"

    def needs_approval(self, arguments: dict[str, object]) -> bool:
        return True

    def call(self, arguments: dict[str, object]) -> object:
        return "live"


def test_nobody_is_asked_about_what_is_only_told_again() -> None:
    recording = Recording([call("f", "recorded")], [Careful()])
    (only,) = recording.tools
    assert only.rules == "its rules"
    assert not only.needs_approval({}) and only.call({}) == "recorded"
    recording.release()
    assert only.needs_approval({}) and only.call({}) == "live"
    assert not hasattr(Recording([call("g")]).tools[0], "rules")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


async def run(sandbox: Sandbox, tools: tuple[HostTool, ...], code: str) -> ExecutionResult:
    session = await sandbox.session(tools=tools)
    try:
        return await session.run(code)
    finally:
        await session.close()


CALLS = (
    call("rate", 0.5, currency="USD", day=1),
    call("rate", 0.7, currency="GBP", day=3),
    call("rate", error="rate failed: no such currency", currency="XXX", day=1),
)
CODE = """
print(rate('USD'), rate(currency='GBP', day=3))
try: rate('XXX')
except Exception as error: print(error)
rate('EUR')
"""


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("live", [(rate,), ()])
async def test_code_gets_what_was_recorded(sandbox: Sandbox, live: tuple[HostTool, ...]) -> None:
    result = await run(sandbox, Recording(CALLS, live).tools, CODE)
    assert result.stdout == "0.5 0.7\nrate failed: no such currency\n"
    assert result.error is not None and "the recording does not hold the call rate(" in result.error.message
    assert called == []


@pytest.mark.asyncio(loop_scope="module")
async def test_too_many_values_for_a_tool_that_only_the_recording_knows(sandbox: Sandbox) -> None:
    result = await run(sandbox, Recording(CALLS).tools, "rate('USD', 1, 2)")
    assert result.error is not None and result.error.name == "TypeError"


@pytest.mark.asyncio(loop_scope="module")
async def test_answers_to_input_are_recorded_ones(sandbox: Sandbox) -> None:
    answers: Mapping[str, str] = {"name? ": "Ada", "": "yes"}
    calls = [call("input", answer, prompt=prompt) for prompt, answer in answers.items()]
    result = await run(sandbox, Recording(calls).tools, "print(input('name? '), input())")
    assert result.stdout == "Ada yes\n"
