"""Several continuations from one state: the one that passes goes on, the others are kept as pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from codeact import Agent, RunResult
from codeact.contracts import Model, Sandbox, Session
from codeact.errors import SandboxError, UsageError
from codeact.events import ExecutionFinished, RunStarted
from codeact.sandbox import Sandbox as open_sandbox
from codeact.sandbox import image
from tests.conversations import code, collect, served, talk

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not image.is_possible(), reason="sessions are forked on x86-64 only"),
]

TRIES = [code(f"tried.append({n})\nopen('tried', 'w').write('{n}')\nprint(tried)") for n in range(3)]
REPLIES = (code("tried = []"), "Ready.", *TRIES, "Done.", "Done.", "Done.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


async def is_two(result: RunResult, session: Session) -> bool:
    assert result.reason == "answered"
    return (await session.run("tried, open('tried').read()")).result == "([2], '2')"


async def test_the_one_that_passes_goes_on(sandbox: Sandbox) -> None:
    async with served(*REPLIES, "More.") as (server, model), talk(sandbox, model, temperature=0.7) as conversation:
        await collect(conversation, "Begin.")
        before = len(conversation.events)
        outcome = await conversation.best_of(3, is_two, "Try.")
        assert sorted(outcome.passed) == [False, False, True] and outcome.result is not None
        assert outcome.best == outcome.passed.index(True)
        assert (await conversation.session.run("tried")).result == "[2]"
        assert [e.task for e in conversation.events if isinstance(e, RunStarted)] == ["Begin.", "Try."]
        executions = [e.result.stdout for e in conversation.events[before:] if isinstance(e, ExecutionFinished)]
        assert executions == ["[2]\n"], "of the others nothing is in the history"
        await collect(conversation, "And now?")
        said = [message["content"] for message in server.requests[-1]["messages"]]
        assert said[-1] == "And now?" and any("tried.append(2)" in text for text in said)
        assert not any("tried.append(1)" in text for text in said)


async def test_the_others_are_kept_as_training_pairs(sandbox: Sandbox) -> None:
    async with served(*REPLIES) as (_, model), talk(sandbox, model) as conversation:
        await collect(conversation, "Begin.")
        outcome = await conversation.best_of(3, is_two, "Try.")
        assert len(outcome.pairs) == 2
        for pair in outcome.pairs:
            prompt, chosen, rejected = (pair[name] for name in ("prompt", "chosen", "rejected"))
            assert isinstance(prompt, list) and isinstance(chosen, list) and isinstance(rejected, list)
            assert prompt[0]["role"] == "system" and prompt[-1] == {"role": "user", "content": "Try."}
            assert any("tried = []" in turn["content"] for turn in prompt)
            assert "tried.append(2)" in chosen[0]["content"] and "tried.append(2)" not in str(rejected)
            assert [turn["role"] for turn in chosen] == [turn["role"] for turn in rejected]
            assert chosen[-1] == rejected[-1] == {"role": "assistant", "content": "Done."}


async def test_where_none_passes_all_stays_as_it_was(sandbox: Sandbox) -> None:
    async with served(*REPLIES) as (_, model), talk(sandbox, model) as conversation:
        await collect(conversation, "Begin.")
        before, session = list(conversation.events), conversation.session
        outcome = await conversation.best_of(3, lambda result, session: False, "Try.")
        assert outcome.best is None and outcome.result is None and outcome.pairs == ()
        assert len(outcome.results) == 3
        assert conversation.events == before and conversation.session is session
        assert (await session.run("tried")).result == "[]"


async def test_a_check_that_fails_ends_the_others_and_is_raised(sandbox: Sandbox) -> None:
    async with served(*REPLIES) as (_, model), talk(sandbox, model) as conversation:
        await collect(conversation, "Begin.")

        def broken(result: RunResult, session: Session) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await conversation.best_of(3, broken, "Try.")
        assert (await conversation.session.run("tried")).result == "[]"
        with pytest.raises(UsageError):
            await conversation.best_of(0, broken, "Try.")


async def test_without_forks_it_says_so() -> None:
    async with open_sandbox("unsafe-process") as sandbox, served("Hm.") as (_, model), talk(sandbox, model) as talking:
        with pytest.raises(SandboxError, match="cannot be forked"):
            await talking.best_of(2, is_two, "Try.")


async def test_the_agents_own_takes_a_task_from_the_beginning(sandbox: Sandbox) -> None:
    tries = [code(f"print({n})") for n in range(2)]
    async with served(*tries, "Done.", "Done.") as (_, model):
        outcome = await _agent(model, sandbox).abest_of(2, lambda result, session: "1" in _printed(result), "Try.")
    assert sorted(outcome.passed) == [False, True] and outcome.before == ()
    assert outcome.result is not None and _printed(outcome.result) == "1\n"
    assert len(outcome.pairs) == 1


def _agent(model: Model, sandbox: Sandbox) -> Agent:
    return Agent(model, sandbox=sandbox)


def _printed(result: RunResult) -> str:
    return "".join(event.result.stdout for event in result.events if isinstance(event, ExecutionFinished))
