"""``@tool``: a Python function of the host, callable from the sandbox.

The kernel gets a stub of the same name, signature and docstring. A call travels over the kernel's stdin channel as
JSON, is validated here by the function's type hints (pydantic), runs in this process, and its JSON result goes back.

Not protected: what the function itself does. It runs with all rights of this process, on arguments that a model chose.
"""

from __future__ import annotations

import asyncio
import inspect
import keyword
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError, create_model
from pydantic_core import to_jsonable_python

from codeact.errors import ToolError, UsageError

_STUB = """
def {name}{signature}:
    {doc}
    from codeact.sandbox.kernelapp import call_host
    return call_host({name!r}, {arguments})
"""


class Tool:
    """A function offered to the sandbox. Make it with ``tool``. Calling it here calls the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__name__", "")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError("a tool needs a name: decorate a function, not a lambda")
        self.function = function
        self.name: str = name
        self.signature = inspect.signature(function)
        hints = get_type_hints(function)
        fields: dict[str, Any] = {}
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(f"the tool {name} takes *{parameter.name}: name its parameters one by one")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
        self._arguments = create_model(f"{name}_arguments", **fields)
        self._result = TypeAdapter[Any](hints.get("return", Any))
        self.stub = self._make_stub()
        purpose = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        self.description = f"{name}{self.signature}" + (f": {purpose}" if purpose else "")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def _make_stub(self) -> str:
        """The stub's source. Annotations are quoted: their types need not exist in the kernel."""
        pieces: list[str] = []
        seen_keyword_only = False
        parameters = list(self.signature.parameters.values())
        for index, parameter in enumerate(parameters):
            if parameter.kind is parameter.KEYWORD_ONLY and not seen_keyword_only:
                seen_keyword_only = True
                pieces.append("*")
            piece = parameter.name
            if parameter.annotation is not parameter.empty:
                piece += f": {inspect.formatannotation(parameter.annotation)!r}"
            if parameter.default is not parameter.empty:
                default = to_jsonable_python(parameter.default, fallback=lambda _: None)
                piece += f" = {default!r}"
            pieces.append(piece)
            following = parameters[index + 1] if index + 1 < len(parameters) else None
            if parameter.kind is parameter.POSITIONAL_ONLY and (
                following is None or following.kind is not parameter.POSITIONAL_ONLY
            ):
                pieces.append("/")
        arguments = ", ".join(f"{p.name!r}: {p.name}" for p in parameters)
        return _STUB.format(
            name=self.name,
            signature=f"({', '.join(pieces)})",
            doc=repr(inspect.getdoc(self.function) or ""),
            arguments=f"{{{arguments}}}",
        )

    def call(self, arguments: dict[str, object]) -> Awaitable[object]:
        """Validate, run (ordinary functions on a thread), and return the result as JSON values. Raises ToolError."""
        return self._call(arguments)

    async def _call(self, arguments: dict[str, object]) -> object:
        try:
            model = self._arguments.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'call'}: {e['msg']}" for e in error.errors())
            raise ToolError(f"{self.name} was called with wrong arguments: {problems}") from error
        positional, named = [], {}
        for parameter in self.signature.parameters.values():
            value = getattr(model, parameter.name)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(*positional, **named)
            else:
                result = await asyncio.to_thread(self.function, *positional, **named)
            return self._result.dump_python(result, mode="json")
        except Exception as error:
            # the message only: where in the host it happened is no business of the sandbox
            raise ToolError(f"{self.name} failed: {type(error).__name__}: {error}") from error


def tool(function: Callable[..., Any]) -> Tool:
    """Offer a typed, documented function (sync or async) to the code in the sandbox.

    Its parameters and result are what pydantic can carry as JSON. An exception in it arrives in the sandbox as an
    exception with its message. Raises UsageError for a function without a name or with ``*args``.
    """
    return Tool(function)
