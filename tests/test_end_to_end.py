"""The whole agent: a scripted model server over HTTP with every habit that servers have, and the real local sandbox.

The answers are made by the script from what the agent sent it, so that a right answer proves that the code ran, that
its output was shown to the model, and that nothing which the model made up was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest
import pytest_asyncio

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import Sandbox
from codeact.events import ExecutionFinished, ModelDelta, ModelReplied, ModelRestarted, Notice, Observed, RunFinished
from codeact.models.openai import OpenAIModel
from codeact.results import RunResult
from codeact.sandbox import Sandbox as open_sandbox
from tests.servers import Behaviour, Request, Scripted, ScriptedServer, ToolReply

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-test-0123456789"
CODE = "squares = [i * i for i in range(1000)]\nprint('the sum is', sum(squares))"
SUM = "332833500"
ACTION = f"I add them up.\n\n<execute>\n{CODE}\n</execute>"
INVENTED = "\n\nExecution Output:\nthe sum is 12345\n\nThe answer is 12345."
FENCED = f"I add them up.\n\n```python\n{CODE}\n```"
CALL = ToolReply("python", json.dumps({"code": CODE}), text="I add them up.")


def last(body: Request) -> str:
    """An answer made of what the agent sent last."""
    text = body["messages"][-1]["content"]
    assert isinstance(text, str)
    return "I read: " + " / ".join(text.splitlines())


def made(name: str) -> Scripted:
    """An action that computes with a variable of an earlier one."""
    return f"<execute>print('again', max({name}))</execute>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


async def solve(server: ScriptedServer, sandbox: Sandbox, **options: Any) -> RunResult:
    """One task with the real model class, quick to retry and quick to lose patience."""
    of_model = {
        name: options.pop(name)
        for name in ("name", "timeout", "max_retries", "max_reply_chars", "api_key")
        if name in options
    }
    known: dict[str, Any] = {"name": "scripted", "timeout": 20.0, "api_key": KEY} | of_model
    model = OpenAIModel(base_url=server.base_url, backoff=0.001, **known)
    try:
        return await Agent(model, sandbox=sandbox, **options).arun("Sum the squares below 1000.")
    finally:
        await model.close()


def executions(result: RunResult) -> list[str]:
    return [event.result.stdout for event in result.events if isinstance(event, ExecutionFinished)]


def assert_solved(result: RunResult) -> None:
    assert (result.reason, result.message) == ("answered", "")
    assert executions(result) == [f"the sum is {SUM}\n"]
    assert result.answer is not None and SUM in result.answer and "12345" not in result.answer
    assert result.events[-1] is result.end


# --- how a reply ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", ["tokens", "characters", "whole"])
@pytest.mark.parametrize("stops", ["strips", "keeps", "ignores"])
async def test_what_the_server_does_with_stops_changes_nothing(
    sandbox: Sandbox, stops: Literal["strips", "keeps", "ignores"], pieces: Literal["tokens", "characters", "whole"]
) -> None:
    with ScriptedServer([ACTION + INVENTED, last], stops=stops, pieces=pieces) as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    history = server.requests[1]["messages"]
    assert [message["role"] for message in history] == ["system", "user", "assistant", "user"]
    assert history[2]["content"] == ACTION
    assert history[3]["content"].startswith(f"Execution Output:\nthe sum is {SUM}")
    shown = "".join(event.text for event in result.events if isinstance(event, ModelDelta))
    assert "sum(squares)" in shown and "12345" not in shown


@pytest.mark.parametrize("ending", ["</execute>", "\n</execute>", ""])
async def test_a_server_may_stop_at_the_closing_tag(sandbox: Sandbox, ending: str) -> None:
    with ScriptedServer([f"<execute>{CODE}{ending}", last], natural_stop="</execute>") as server:
        assert_solved(await solve(server, sandbox))


async def test_only_the_first_action_runs_and_the_model_is_told(sandbox: Sandbox) -> None:
    with ScriptedServer([f"{ACTION}\n\n<execute>print('second')</execute>", last]) as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    assert "Only the first piece of code of your reply was run" in server.requests[1]["messages"][-1]["content"]
    assert "second" not in server.requests[1]["messages"][-2]["content"]


@pytest.mark.parametrize("behaviour", ["json", "no-finish", "no-done"])
async def test_sloppy_endings(sandbox: Sandbox, behaviour: Behaviour) -> None:
    with ScriptedServer([ACTION, last], behaviour) as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    assert result.end.usage.prompt_tokens > 0


async def test_a_server_that_does_not_count(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION, last], usage=False) as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    assert result.end.usage.estimated and result.end.usage.prompt_tokens > 100


async def test_endless_text_behind_an_action_is_hung_up_on(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION, last], ["endless", "good"]) as server:
        result = await solve(server, sandbox, max_reply_chars=10**9, budget=Budget(seconds=20))
        assert await asyncio.to_thread(server.disconnected.wait, 10), "the connection stayed open"
    assert_solved(result)
    assert "and so on" not in json.dumps(server.requests[1])


async def test_endless_text_without_an_action_ends_and_is_told(sandbox: Sandbox) -> None:
    with ScriptedServer(["Well"], "endless") as server:
        result = await solve(server, sandbox, max_reply_chars=3000)
        assert await asyncio.to_thread(server.disconnected.wait, 10), "the connection stayed open"
    assert result.reason == "answered" and result.answer is not None and len(result.answer) < 4000
    notices = [event for event in result.events if isinstance(event, Notice)]
    assert len(notices) == 1 and "cut off" in notices[0].text and notices[0].to_model


async def test_endless_reasoning_ends(sandbox: Sandbox) -> None:
    with ScriptedServer([""], "endless-reasoning") as server:
        result = await solve(server, sandbox, max_reply_chars=3000, budget=None)
        assert await asyncio.to_thread(server.disconnected.wait, 10), "the connection stayed open"
    assert result.reason in ("model_error", "turns")
    assert "The reply was empty" in server.requests[1]["messages"][-1]["content"]


# --- failures that pass -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviours",
    [
        ["429", "good"],
        ["500", "429", "good"],
        ["good", "500", "good"],
        ["reset", "good"],
        ["truncated", "good"],
        ["cut-chunk", "good"],
        ["malformed", "good"],
        ["error-event", "good"],
        ["good", "reset", "truncated", "good"],
    ],
    ids="-".join,
)
async def test_failures_that_pass_are_told_and_forgotten(sandbox: Sandbox, behaviours: Sequence[Behaviour]) -> None:
    with ScriptedServer([ACTION, last], behaviours, retry_after="0") as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    failed = sum(behaviour != "good" for behaviour in behaviours)
    restarts = [event for event in result.events if isinstance(event, ModelRestarted)]
    assert len(restarts) == failed and all(event.reason for event in restarts)
    assert len(server.requests) == failed + 2
    replies = [event.reply.text for event in result.events if isinstance(event, ModelReplied)]
    assert replies[0] == ACTION and len(replies) == 2, "half replies are forgotten"


@pytest.mark.parametrize("rejects", [["stop"], ["stream_options"], ["temperature"]], ids="-".join)
async def test_servers_that_refuse_a_field_are_asked_without(sandbox: Sandbox, rejects: Sequence[str]) -> None:
    with ScriptedServer([ACTION + INVENTED, last], stops="ignores", rejects=rejects) as server:
        assert_solved(await solve(server, sandbox, temperature=0.0))
    assert len(server.requests) == 3, "the refusal is remembered"


# --- failures that do not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "asked", "message"),
    [
        ("500", 3, "failed 3 times, lastly: 500"),
        ("429", 3, "failed 3 times, lastly: 429 Rate limit reached"),
        ("reset", 3, "is the model server running?"),
        ("quota", 1, "the account has no quota left"),
        ("404", 1, "check the name and the base URL"),
        ("400", 2, "check what 'scripted' accepts"),
        ("html", 1, "check the base URL"),
        ("silent", 2, "went silent"),
        ("stalls", 2, "went silent"),
    ],
)
async def test_failures_end_the_run_with_a_reason(
    sandbox: Sandbox, behaviour: Behaviour, asked: int, message: str
) -> None:
    with ScriptedServer([ACTION, last], behaviour) as server:
        result = await solve(server, sandbox, max_retries=2, timeout=0.3)
    assert (result.reason, result.answer) == ("model_error", None)
    assert message in result.message and "\n" not in result.message
    assert isinstance(result.events[-1], RunFinished) and executions(result) == []
    assert len(server.requests) == asked


async def test_what_was_done_before_a_failure_is_kept(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION, last], ["good", "500"]) as server:
        result = await solve(server, sandbox, max_retries=1)
    assert result.reason == "model_error" and executions(result) == [f"the sum is {SUM}\n"]
    assert (result.end.turns, result.end.executions) == (2, 1) and result.end.usage.completion_tokens > 0


async def test_a_wrong_key_is_told_without_the_key(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION], api_key="another") as server:
        result = await solve(server, sandbox)
    assert result.reason == "model_error" and "check the key in OPENAI_API_KEY" in result.message
    assert KEY not in result.message and not any(KEY in event.model_dump_json() for event in result.events)


async def test_nobody_listens(sandbox: Sandbox) -> None:
    with ScriptedServer() as server:
        pass
    result = await solve(server, sandbox, max_retries=1)
    assert result.reason == "model_error" and "is the model server running?" in result.message


async def test_a_prompt_too_long_is_cut_and_sent_once_more(sandbox: Sandbox) -> None:
    long = "<execute>for i in range(400): print(i, end=' ')</execute>"
    with ScriptedServer([long, long, ACTION, last], context_window=900) as server:
        result = await solve(server, sandbox, context="truncate")
    assert result.reason == "answered" and result.answer is not None and SUM in result.answer
    notices = [event.text for event in result.events if isinstance(event, Notice)]
    assert notices and all("did not fit the model's window and is cut" in text for text in notices)
    assert len(server.requests) == 4 + len(notices)
    assert "left out here to fit the window" in json.dumps(server.requests[-1], ensure_ascii=False)
    assert "900" in notices[0]


async def test_a_prompt_that_cannot_be_cut_enough_is_an_error(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION], context_window=100) as server:
        result = await solve(server, sandbox)
    assert result.reason == "model_error"
    assert "the model's window of 100" in result.message and "--context-window" in result.message
    assert len(server.requests) == 1, "the server's window is known now, and the system prompt alone is larger"


# --- formats ------------------------------------------------------------------------------------------------------


async def test_fences(sandbox: Sandbox) -> None:
    with ScriptedServer([FENCED + INVENTED, last], stops="ignores") as server:
        result = await solve(server, sandbox, format="fences")
    assert_solved(result)
    assert server.requests[1]["messages"][2]["content"] == FENCED


@pytest.mark.parametrize(
    ("format", "reply"), [("tags", FENCED), ("fences", ACTION), ("tool_call", FENCED), ("tool_call", ACTION)]
)
async def test_neighbouring_forms_are_understood(sandbox: Sandbox, format: str, reply: str) -> None:
    with ScriptedServer([reply + INVENTED, last], stops="ignores") as server:
        assert_solved(await solve(server, sandbox, format=format))


async def test_a_fence_in_the_answer_of_a_model_that_knows_the_tags_is_text(sandbox: Sandbox) -> None:
    answer = f"The sum is {SUM}. You can compute it yourself:\n```python\nprint('not run')\n```"
    with ScriptedServer([ACTION, answer]) as server:
        result = await solve(server, sandbox)
    assert_solved(result)
    assert result.answer == answer


@pytest.mark.parametrize("pieces", ["tokens", "characters", "whole"])
async def test_native_tool_calls(sandbox: Sandbox, pieces: Literal["tokens", "characters", "whole"]) -> None:
    with ScriptedServer([CALL, last], pieces=pieces) as server:
        result = await solve(server, sandbox, format="tool_call")
    assert_solved(result)
    assert server.requests[0]["tools"][0]["function"]["name"] == "python" and "stop" not in server.requests[0]
    asked, told = server.requests[1]["messages"][2:]
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"code": CODE}
    assert (told["role"], told["tool_call_id"]) == ("tool", asked["tool_calls"][0]["id"])
    assert told["content"].startswith(f"the sum is {SUM}")


async def test_native_tool_calls_are_the_way_of_models_known_for_them(sandbox: Sandbox) -> None:
    with ScriptedServer([CALL, last]) as server:
        assert_solved(await solve(server, sandbox, name="gpt-5-mini"))


async def test_broken_arguments_are_told_and_repaired(sandbox: Sandbox) -> None:
    broken = ToolReply("python", '{"code": "print(1', id="call_0")
    with ScriptedServer([broken, CALL, last]) as server:
        result = await solve(server, sandbox, format="tool_call")
    assert_solved(result)
    observed = [event.text for event in result.events if isinstance(event, Observed)]
    assert "not complete JSON, so nothing was run" in observed[0]
    assert server.requests[1]["messages"][-1]["role"] == "tool"


# --- several turns ------------------------------------------------------------------------------------------------


async def test_state_lives_from_turn_to_turn(sandbox: Sandbox) -> None:
    with ScriptedServer([ACTION, made("squares"), last]) as server:
        result = await solve(server, sandbox)
    assert executions(result) == [f"the sum is {SUM}\n", "again 998001\n"]
    assert result.answer is not None and "again 998001" in result.answer
    assert (result.end.turns, result.end.executions) == (3, 2)


async def test_errors_are_shown_and_repaired(sandbox: Sandbox) -> None:
    with ScriptedServer([made("squares"), ACTION, last]) as server:
        result = await solve(server, sandbox)
    assert "NameError: name 'squares' is not defined" in server.requests[1]["messages"][-1]["content"]
    assert result.reason == "answered" and executions(result) == ["", f"the sum is {SUM}\n"]
