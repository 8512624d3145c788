"""What a run may use: each limit ends it with its own reason, and keeps what was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import Sandbox
from codeact.sandbox import Sandbox as open_sandbox
from tests.conversations import LOOP, code, collect, end_of, observed, says, served, stdout, talk, works
from tests.servers import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


async def test_budget_of_turns(sandbox: Sandbox) -> None:
    model = says(*[code(f"print({n})") for n in range(5)])
    result = await Agent(model, sandbox=sandbox, budget=Budget(turns=3)).arun("Go.")
    assert (result.reason, result.answer) == ("turns", None)
    assert result.message == "no answer after 3 turns; allow more with --max-turns"
    assert (result.end.turns, result.end.executions, stdout(result.events)) == (3, 3, "0\n1\n2\n")


async def test_budget_of_executions_lets_the_model_answer_after_the_last(sandbox: Sandbox) -> None:
    agent = Agent(says(code("print(1)"), "It is 1."), sandbox=sandbox, budget=Budget(executions=1))
    assert (await agent.arun("Go.")).answer == "It is 1."


async def test_budget_of_executions(sandbox: Sandbox) -> None:
    model = says(code("print(1)"), code("print(2)"), code("print(3)"))
    result = await Agent(model, sandbox=sandbox, budget=Budget(executions=2)).arun("Go.")
    assert (result.reason, result.message) == ("executions", "no answer after 2 executions")
    assert (result.end.executions, stdout(result.events)) == (2, "1\n2\n")


async def test_budget_of_tokens(sandbox: Sandbox) -> None:
    async with served(*[code("print(1)")] * 3) as (_, model):
        result = await Agent(model, sandbox=sandbox, budget=Budget(tokens=500)).arun("Go.")
    assert result.reason == "tokens" and "500 were allowed" in result.message
    usage = result.end.usage
    assert usage.prompt_tokens + usage.completion_tokens >= 500 and not usage.estimated


async def test_budget_of_cost(sandbox: Sandbox) -> None:
    async with served(code("print(1)"), "Done.", name="gpt-4o") as (_, model):
        result = await Agent(model, sandbox=sandbox, budget=Budget(cost=0.0005)).arun("Go.")
    assert result.reason == "cost" and "0.0005 were allowed" in result.message
    usage = result.end.usage
    assert result.end.cost == pytest.approx((usage.prompt_tokens * 2.5 + usage.completion_tokens * 10) / 1e6)


async def test_cost_is_unknown_where_prices_are(sandbox: Sandbox) -> None:
    result = await Agent(says("Done."), sandbox=sandbox, budget=Budget(cost=0.0)).arun("Go.")
    assert (result.reason, result.end.cost) == ("answered", None)


@pytest.mark.parametrize("behaviour", ["silent", "stalls", "pings"])
async def test_budget_of_time_ends_a_model_that_says_nothing(sandbox: Sandbox, behaviour: Behaviour) -> None:
    async with served(code("print(1)"), behaviours=behaviour) as (server, model):
        result = await Agent(model, sandbox=sandbox, budget=Budget(seconds=0.3)).arun("Go.")
        assert await asyncio.to_thread(server.disconnected.wait, 10), "the connection stayed open"
    assert (result.reason, result.message) == ("time", "no answer after 0.3 seconds")
    assert 0.3 <= result.end.duration < 5 and 0.2 < result.end.model_time
    assert result.end.usage.prompt_tokens > 0 and result.end.usage.estimated, "what was sent was used"


async def test_budget_of_time_stops_running_code(sandbox: Sandbox) -> None:
    async with talk(sandbox, says(LOOP), budget=Budget(seconds=0.5)) as conversation:
        end = end_of(await collect(conversation))
        assert (end.reason, end.message) == ("time", "no answer after 0.5 seconds")
        assert 0.3 < end.code_time < 5
        await works(conversation, "half", "2")


async def test_a_large_budget_of_time_does_not_lift_the_limit_of_an_execution() -> None:
    slow = code("import time; time.sleep(600)")
    async with open_sandbox("local", timeout=0.4) as strict:
        result = await Agent(says(slow, "Gave up."), sandbox=strict, budget=Budget(seconds=300)).arun("Go.")
        assert result.answer == "Gave up." and "time limit of 0.4 seconds" in observed(result.events)[0]
        looser = Agent(says(code("import time; time.sleep(0.6); print('slept')"), "Done."), sandbox=strict, timeout=20)
        assert "slept" in observed((await looser.arun("Go.")).events)[0]


async def test_budgets_are_those_of_each_message(sandbox: Sandbox) -> None:
    model = says(code("print(1)"), code("print(2)"), "Done.")
    async with talk(sandbox, model, budget=Budget(turns=2)) as conversation:
        assert end_of(await collect(conversation)).reason == "turns"
        end = end_of(await collect(conversation, "go on"))
        assert (end.reason, end.turns) == ("answered", 1)
