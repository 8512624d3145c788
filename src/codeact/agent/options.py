"""What an agent is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from codeact.budget import Budget
from codeact.context import DEFAULT, Strategy, check_strategy
from codeact.contracts import Answer, HostTool, Model, Question, Sandbox

Asker = Callable[[Question], "Reaction | Awaitable[Reaction]"]
"""Asks a person. An ordinary function runs on a thread; what waits is cancelled when the code waits no longer."""

Reaction = Answer | bool | str | None
"""True or False: allow the call or not. Text: why not, or what ``input()`` gets. None: no answer."""


class Options:
    """What an agent was given; see ``codeact.Agent``."""

    def __init__(
        self,
        model: Model | str | None = None,
        *,
        sandbox: Sandbox | str = "local",
        format: str | None = None,
        budget: Budget | None = None,
        instructions: str = "",
        tools: Sequence[HostTool] = (),
        timeout: float | None = None,
        observation_limit: int = 4000,
        max_tokens: int | None = None,
        temperature: float | None = None,
        ask: Asker | Literal["events"] | None = None,
        ask_limit: float = 600.0,
        context: str | Strategy = DEFAULT,
        context_window: int | None = None,
    ) -> None:
        check_strategy(context)
        self.model = model
        self.sandbox = sandbox
        self.format = format
        self.budget = budget or Budget()
        self.instructions = instructions
        self.tools = tuple(tools)
        self.timeout = timeout
        self.observation_limit = observation_limit
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.ask = ask
        self.ask_limit = ask_limit
        self.context = context
        self.context_window = context_window
