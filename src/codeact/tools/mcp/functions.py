"""What a server offers, as functions of the sandbox: the host's side of a call and the stub in the kernel."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import mcp_types as types
from pydantic_core import to_jsonable_python

from codeact import payload
from codeact.contracts import ToolRules
from codeact.errors import ToolError
from codeact.tools.mcp import results
from codeact.tools.mcp.results import Answer, short_text
from codeact.tools.mcp.schema import Parameter, Root, Schema, doc_of, type_of, unwrapped

if TYPE_CHECKING:
    from codeact.tools.mcp.connection import Connection

_STUB = """
def {name}({parameters}){returns}:
    {doc}
    from codeact.sandbox.kernelmcp import call
    return call({target!r}, {arguments})
"""
_MAX_PURPOSE = 200  # characters of a description in the prompt


Run = Callable[[str, dict[str, object]], Awaitable[object]]
"""Calls a function by its name; what comes back is what travels to the kernel, see ``codeact.sandbox.kernelmcp``."""


class McpTool:
    """One tool of a server, as ``codeact.contracts.HostTool`` asks. ``group`` is the server's name.

    Not protected: what the tool does. It runs with its server's rights, on arguments that a model chose.
    """

    def __init__(self, name: str, connection: Connection, tool: types.Tool, run: Run) -> None:
        self.name = name
        self.group = connection.name
        self.rules = ToolRules(group=self.group)
        self.tool = tool
        self.schema = Schema(tool.input_schema)
        self._connection = connection
        self._run = run
        output = tool.output_schema
        self._unwraps = output is not None and unwrapped(output) is not output
        self.returns = "Any" if output is None else type_of(unwrapped(output), Root(output))
        origin = f"Tool {short_text(tool.name, 100)!r} of the MCP server {self.group!r}."
        self.doc = doc_of(tool.description or "", self.schema.parameters, output, origin)
        self.purpose = short_text(" ".join((tool.description or "").partition("\n\n")[0].split()), _MAX_PURPOSE)
        self.stub = self.stub_for(name)
        self.describe(_MAX_PURPOSE)

    @property
    def signature(self) -> str:
        return f"{self.name}{self.schema.signature}" + ("" if self.returns == "Any" else f" -> {self.returns}")

    def describe(self, length: int) -> None:
        """Give the description that many characters of the purpose; with none, it is the name only."""
        purpose = short_text(self.purpose, length)
        self.description = f"{self.signature}: {purpose}" if purpose else self.signature
        if not length:
            self.description = f"{self.name}(…)"

    def stub_for(self, target: str, fixed: Mapping[str, str] | None = None) -> str:
        """The stub's source. ``fixed``: a function that came later calls ``target`` with itself named in these."""
        arguments = ", ".join(
            [f"{p.key!r}: {p.name}" for p in self.schema.parameters] + ["**more"] * self.schema.takes_more
        )
        inner = f"{{{arguments}}}"
        if fixed is not None:
            inner = f"{{{', '.join(f'{key!r}: {value!r}' for key, value in fixed.items())}, 'arguments': {inner}}}"
        returns = "" if self.returns == "Any" else f" -> {self.returns!r}"
        return stub(self.name, self.schema.parameters, self.schema.takes_more, returns, self.doc, target, inner)

    def call(self, arguments: dict[str, object]) -> Awaitable[object]:
        return self._run(self.name, arguments)

    async def answer(self, arguments: Mapping[str, object]) -> Answer:
        """Check the arguments, call the server, and take its answer apart. Raises ToolError."""
        given = self.schema.given(plain(self.name, arguments))
        if wrong := self.schema.problems(given):
            raise ToolError(f"{self.name} was called with wrong arguments: {wrong}. It takes {self.signature}")
        return results.of_call(self.name, await self._connection.call(self.tool.name, given), self._unwraps)


class Function:
    """A function of our own beside the tools: ``action`` is what a call does."""

    def __init__(
        self,
        name: str,
        parameters: tuple[Parameter, ...],
        returns: str,
        doc: str,
        action: Callable[[dict[str, Any]], Awaitable[object]],
    ) -> None:
        self.name = name
        self.group = "mcp"
        self.rules = ToolRules(group=self.group)
        inner = "{" + ", ".join(f"{p.key!r}: {p.name}" for p in parameters) + "}"
        self.stub = stub(name, parameters, False, f" -> {returns!r}", doc, name, inner, positional=True)
        shown = ", ".join(parameter.shown for parameter in parameters)
        self.description = f"{name}({shown}) -> {returns}: {doc.partition(chr(10))[0]}"
        self._names = {parameter.key: parameter for parameter in parameters}
        self._action = action

    def call(self, arguments: dict[str, object]) -> Awaitable[object]:
        for parameter in self._names.values():
            value = arguments.get(parameter.key, parameter.default)
            kinds = {"str": str, "dict": dict}
            if not (value is None and not parameter.required) and not isinstance(
                value, kinds[parameter.type.split()[0]]
            ):
                raise ToolError(f"{self.name}: {parameter.name} must be a {parameter.type}")
        return self._action(arguments)


def plain(name: str, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Arguments in the form of ``payload`` as the plain JSON that servers take: times as text, bytes as base64."""
    try:
        values = to_jsonable_python(payload.decode(dict(arguments)), bytes_mode="base64", inf_nan_mode="strings")
    except (ValueError, TypeError) as error:
        raise ToolError(f"{name} was called with what a server cannot be sent: {error}", "arguments") from error
    return dict(values)


def stub(
    name: str,
    parameters: tuple[Parameter, ...],
    more: bool,
    returns: str,
    doc: str,
    target: str,
    arguments: str,
    positional: bool = False,
) -> str:
    """Source of a function of the kernel. Raises ValueError where it would be anything but one function.

    Annotations and defaults are literals, the docstring too: nothing of a server is code.
    """
    shown = [f"{p.name}: {p.type!r}" + ("" if p.required else f" = {p.default!r}") for p in parameters]
    if shown and not positional:
        shown.insert(0, "*")
    if more:
        shown.append("**more")
    source = _STUB.format(
        name=name, parameters=", ".join(shown), returns=returns, doc=repr(doc), target=target, arguments=arguments
    )
    body = ast.parse(source).body
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].name != name or len(body[0].body) != 3:
        raise ValueError(f"the stub of {name} is not one function")
    return source
