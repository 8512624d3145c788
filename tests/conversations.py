"""Conversations with the real agent, for tests: models that say what they are told, and all events collected."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from codeact.agent import Agent, Conversation
from codeact.contracts import Model, Sandbox
from codeact.events import Event, ExecutionFinished, ExecutionOutput, Observed, RunFinished
from codeact.models.openai import OpenAIModel
from codeact.models.replay import ReplayModel
from tests.servers import Behaviour, Scripted, ScriptedServer

LOOP = "<execute>half = 2\nprint('begun')\nwhile True: pass</execute>"


def code(text: str) -> str:
    return f"<execute>{text}</execute>"


def says(*replies: str) -> ReplayModel:
    return ReplayModel(replies)


@contextlib.asynccontextmanager
async def talk(sandbox: Sandbox, model: Model, **options: Any) -> AsyncIterator[Conversation]:
    async with Agent(model, sandbox=sandbox, **options).conversation() as conversation:
        yield conversation


@contextlib.asynccontextmanager
async def served(
    *replies: Scripted, behaviours: Behaviour | Sequence[Behaviour] = "good", **options: Any
) -> AsyncIterator[tuple[ScriptedServer, Model]]:
    """A model server and the model behind it."""
    name = options.pop("name", "scripted")
    of_model = {"timeout": 60.0, "backoff": 0.001} | options.pop("model", {})
    with ScriptedServer(replies, behaviours, **options) as server:
        model = OpenAIModel(name, base_url=server.base_url, api_key="key", **of_model)
        try:
            yield server, model
        finally:
            await model.close()


async def collect(
    conversation: Conversation, message: str = "do it", *, each: Callable[[Event], object] = lambda _: None
) -> list[Event]:
    """All events of one message; ``each`` is called with every one when it comes."""
    seen: list[Event] = []
    async with contextlib.aclosing(conversation.send(message)) as told:
        async for event in told:
            seen.append(event)
            each(event)
    assert seen == [*seen[:-1], conversation.events[-1]]
    return seen


def end_of(seen: Sequence[Event]) -> RunFinished:
    ends = [event for event in seen if isinstance(event, RunFinished)]
    assert len(ends) == 1 and seen[-1] is ends[0], "RunFinished comes last, and once"
    return ends[0]


def observed(seen: Sequence[Event]) -> list[str]:
    return [event.text for event in seen if isinstance(event, Observed)]


def stdout(seen: Sequence[Event]) -> str:
    return "".join(event.result.stdout for event in seen if isinstance(event, ExecutionFinished))


def begun(event: Event) -> bool:
    """The endless code is running."""
    return isinstance(event, ExecutionOutput) and "begun" in getattr(event.output, "text", "")


async def works(conversation: Conversation, expression: str, value: str) -> None:
    result = await conversation.session.run(expression)
    assert (result.status, result.result) == ("ok", value), result
