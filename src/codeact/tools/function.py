"""``@tool``: a Python function of the host, callable from the sandbox.

The kernel gets a stub of the same name, signature and docstring. A call travels over the kernel's stdin channel as
JSON, is validated here by the function's type hints (pydantic), runs in this process, and its JSON result goes back.

Not protected: what the function itself does. It runs with all rights of this process, on arguments that a model chose.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import keyword
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

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
        try:
            self.signature = inspect.signature(function, eval_str=True)
        except (NameError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"the tool {name} has no signature that can be read: {error}") from error
        fields: dict[str, Any] = {}
        self._defaults: dict[str, object] = {}
        for number, parameter in enumerate(self.signature.parameters.values()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(f"the tool {name} takes *{parameter.name}: name its parameters one by one")
            hint = Any if parameter.annotation is parameter.empty else parameter.annotation
            # names of our own: a parameter may be called like a method of pydantic's models
            fields[f"argument_{number}"] = (hint, Field(alias=parameter.name))
            if parameter.default is not parameter.empty:
                fields[f"argument_{number}"] = (hint, Field(parameter.default, alias=parameter.name))
                plain = to_json(parameter.default, fallback=lambda _: None, inf_nan_mode="strings")
                self._defaults[parameter.name] = json.loads(plain)
        returned = self.signature.return_annotation
        try:
            self._arguments = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
            self._result = TypeAdapter[Any](Any if returned is self.signature.empty else returned)
        except PydanticUserError as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the tool {name} has a type that JSON cannot carry: {reason}") from error
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
                piece += f" = {self._defaults[parameter.name]!r}"
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
        # the stub sends its defaults, which as JSON need not be what the function has
        given = {k: v for k, v in arguments.items() if k not in self._defaults or v != self._defaults[k]}
        try:
            model = self._arguments.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'call'}: {e['msg']}" for e in error.errors())
            raise ToolError(f"{self.name} was called with wrong arguments: {problems}") from error
        positional, named = [], {}
        for number, parameter in enumerate(self.signature.parameters.values()):
            value = getattr(model, f"argument_{number}")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(*positional, **named)
            else:
                result = await asyncio.to_thread(self.function, *positional, **named)
        except ToolError:
            raise
        except Exception as error:
            # the message only: where in the host it happened is no business of the sandbox
            raise ToolError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        try:
            return self._result.dump_python(result, mode="json", warnings="error")
        except Exception as error:
            message = f"{self.name} gave back a {type(result).__name__} that is not what it promises or not JSON"
            raise ToolError(message) from error


def tool(function: Callable[..., Any]) -> Tool:
    """Offer a typed, documented function (sync or async) to the code in the sandbox.

    Its parameters and result are what pydantic can carry as JSON. An exception in it arrives in the sandbox as an
    exception with its message; a ToolError raised on purpose keeps its words. Raises UsageError for a function without
    a name, with ``*args``, or with types that JSON cannot carry.
    """
    return Tool(function)
