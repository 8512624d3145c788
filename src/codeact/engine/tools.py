"""Host tools that the client of a session runs: a call travels to it as an event and comes back as a request."""

from __future__ import annotations

from contextvars import ContextVar

from codeact.contracts import ToolRules
from codeact.engine.stream import Execution
from codeact.errors import ToolError
from codeact.sandbox.api import ToolSpec

running: ContextVar[Execution | None] = ContextVar("running", default=None)
"""The execution that the present task runs code for: a copy of a session has the tools of the first one."""


class ClientTool:
    """See ``codeact.contracts.HostTool``. The stub is the client's and runs in its own kernel only."""

    def __init__(self, spec: ToolSpec) -> None:
        self.name = spec.name
        self.stub = spec.stub
        self.description = spec.description
        self.rules = ToolRules(group=spec.group, listed=spec.listed)  # its other rules the client keeps

    async def call(self, arguments: dict[str, object]) -> object:
        execution = running.get()
        if execution is None:
            raise ToolError(f"{self.name} was called while no code runs")
        return await execution.ask(self.name, arguments)
