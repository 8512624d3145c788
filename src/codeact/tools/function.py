"""``@tool``: a Python function of the host, callable from the sandbox.

The kernel gets a stub of the same name, signature and docstring. A call travels over the kernel's stdin channel as JSON
(see ``payload``), is validated here by the function's type hints (pydantic), runs in this process, and its result goes
back the same way.

Not protected: what the function itself does. It runs with all rights of this process, on arguments that a model chose.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import keyword
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from codeact import payload
from codeact.contracts import ToolRules
from codeact.errors import ToolError, UsageError
from codeact.tools.hints import hint_text, refuse_foreign, types_text

Approval = Literal["never", "always"] | Callable[..., bool]
"""When a person is asked: by name, or as a predicate that gets the call's arguments by their names."""

_STUB = """
def {name}{signature}:
    {doc}
    from codeact.sandbox.kernelapp import call_host
    return call_host({name!r}, {arguments})
"""
_PROBLEMS = 5


class Tool:
    """A function offered to the sandbox. Make it with ``tool``. Calling it here calls the function."""

    def __init__(
        self, function: Callable[..., Any], rules: ToolRules | None = None, approval: Approval = "never"
    ) -> None:
        name = getattr(function, "__name__", "")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError("a tool needs a name: decorate a function, not a lambda")
        self.function = function
        self.name: str = name
        self.rules = rules or ToolRules()
        self.approval = approval
        try:
            self.signature = inspect.signature(function, eval_str=True)
        except (NameError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"the tool {name} has no signature that can be read: {error}") from error
        fields: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        """Of the parameters, as the stub has them: plain JSON values."""
        for number, parameter in enumerate(self.signature.parameters.values()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(f"the tool {name} takes *{parameter.name}: name its parameters one by one")
            hint = Any if parameter.annotation is parameter.empty else parameter.annotation
            # names of our own: a parameter may be called like a method of pydantic's models
            fields[f"argument_{number}"] = (hint, Field(alias=parameter.name))
            if parameter.default is not parameter.empty:
                fields[f"argument_{number}"] = (hint, Field(parameter.default, alias=parameter.name))
                plain = to_json(parameter.default, fallback=lambda _: None, inf_nan_mode="strings")
                self.defaults[parameter.name] = json.loads(plain)
        returned = self.signature.return_annotation
        try:
            self._arguments, self._result = _validators(
                name, fields, Any if returned is inspect.Signature.empty else returned
            )
        except PydanticUserError as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the tool {name} has a type that JSON cannot carry: {reason}") from error
        self._make_stub()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def _make_stub(self) -> None:
        """The stub's source and the description. Annotations are quoted: their types need not exist in the kernel."""
        quoted: list[str] = []
        shown: list[str] = []

        def add(text: str) -> None:
            quoted.append(text)
            shown.append(text)

        parameters = list(self.signature.parameters.values())
        for index, parameter in enumerate(parameters):
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in quoted:
                add("*")
            default = f"{self.defaults[parameter.name]!r}" if parameter.default is not parameter.empty else ""
            if parameter.annotation is parameter.empty:
                add(parameter.name + (f"={default}" if default else ""))
            else:
                hint = hint_text(parameter.annotation)
                end = f" = {default}" if default else ""
                quoted.append(f"{parameter.name}: {hint!r}{end}")
                shown.append(f"{parameter.name}: {hint}{end}")
            following = parameters[index + 1] if index + 1 < len(parameters) else None
            if parameter.kind is parameter.POSITIONAL_ONLY and (
                following is None or following.kind is not parameter.POSITIONAL_ONLY
            ):
                add("/")
        returned = self.signature.return_annotation
        result = "" if returned is self.signature.empty else hint_text(returned)
        documentation = inspect.getdoc(self.function) or ""
        hints = [p.annotation for p in parameters] + [returned]
        whole = "\n\n".join(filter(None, (documentation, types_text(hints))))
        self.stub = _STUB.format(
            name=self.name,
            signature=f"({', '.join(quoted)})" + (f" -> {result!r}" if result else ""),
            doc=repr(whole),
            arguments="{" + ", ".join(f"{p.name!r}: {p.name}" for p in parameters) + "}",
        )
        purpose = documentation.partition("\n\n")[0].replace("\n", " ")
        self.description = f"{self.name}({', '.join(shown)})"
        self.description += (f" -> {result}" if result else "") + (f": {purpose}" if purpose else "")

    def needs_approval(self, arguments: dict[str, object]) -> bool:
        """Whether a person is to be asked before this call. Raises ToolError where the arguments are wrong."""
        if self.approval == "never":
            return False
        positional, named = self._validated(arguments)
        if callable(self.approval):
            bound = self.signature.bind(*positional, **named)
            try:
                return bool(self.approval(**bound.arguments))
            except Exception as error:  # nobody knows whether to ask: nothing is run
                message = f"the approval rule of {self.name} failed: {type(error).__name__}: {error}"
                raise ToolError(message, "refused") from error
        return True

    def call(self, arguments: dict[str, object]) -> Awaitable[object]:
        """Validate, run (ordinary functions on a thread), and return the result as JSON values. Raises ToolError."""
        return self._call(arguments)

    def _validated(self, arguments: dict[str, object]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments for the function. Raises ToolError."""
        # the stub sends its defaults, which as JSON need not be what the function has
        given = {k: v for k, v in arguments.items() if k not in self.defaults or v != self.defaults[k]}
        try:
            model = self._arguments.model_validate(payload.decode(given))
        except ValidationError as error:
            problems = "; ".join(_problem(e) for e in error.errors()[:_PROBLEMS])
            expected = f"{self.name}({', '.join(map(_parameter_text, self.signature.parameters.values()))})"
            message = f"{self.name} was called with wrong arguments: {problems}. It is {expected}"
            raise ToolError(message, "arguments") from error
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{self.name} was called with wrong arguments: {error}", "arguments") from error
        positional, named = [], {}
        for number, parameter in enumerate(self.signature.parameters.values()):
            value = getattr(model, f"argument_{number}")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        return positional, named

    async def _call(self, arguments: dict[str, object]) -> object:
        positional, named = self._validated(arguments)
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(*positional, **named)
            else:
                result = await asyncio.to_thread(self.function, *positional, **named)
        except ToolError:
            raise
        except Exception as error:
            # the message only: where in the host it happened is no business of the sandbox
            name = type(error).__name__
            raise ToolError(f"{self.name} failed: {name}: {error}", type_name=name) from error
        try:
            plain = self._result.dump_python(result, warnings="error")
        except Exception as error:
            message = f"{self.name} gave back a {type(result).__name__} that is not what it promises or not JSON"
            raise ToolError(message) from error
        try:
            return payload.encode(_with_records(result, plain))
        except TypeError:  # a type that only pydantic can make JSON of
            pass
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{self.name} gave back what is not JSON: {error}") from error
        try:
            return payload.encode(self._result.dump_python(result, mode="json", warnings="error"))
        except Exception as error:
            raise ToolError(f"{self.name} gave back what is not JSON: {error}") from error


def _validators(name: str, fields: dict[str, Any], returned: Any) -> tuple[type[BaseModel], TypeAdapter[Any]]:
    """What checks arguments and result. Raises PydanticUserError for types that are not carried."""
    try:
        return create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields), TypeAdapter(returned)
    except PydanticUserError as error:  # pandas' frames are carried, though pydantic knows nothing of them
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        model = create_model(f"{name}_arguments", __config__=config, **fields)
        owns = hasattr(returned, "__pydantic_config__") or hasattr(returned, "model_config")
        adapter = TypeAdapter[Any](returned, config=None if owns else ConfigDict(arbitrary_types_allowed=True))
        refuse_foreign((model.__pydantic_core_schema__, adapter.core_schema), error)
        return model, adapter


def _with_records(value: object, plain: Any) -> Any:
    """What pydantic made of a value, with the names of the dataclasses and models in it put back."""
    if isinstance(plain, dict):
        if isinstance(value, Mapping):
            return {k: _with_records(value[k], v) if k in value else v for k, v in plain.items()}
        fields = {k: _with_records(getattr(value, str(k), None), v) for k, v in plain.items()}
        return payload.record(type(value).__name__, fields)
    if isinstance(plain, list | tuple) and isinstance(value, Sequence) and len(value) == len(plain):
        made = [_with_records(v, p) for v, p in zip(value, plain, strict=True)]
        return made if isinstance(plain, list) else tuple(made)
    return plain


def _problem(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "call"
    given = "" if error["type"] == "missing" else f", not {_shown(error['input'])}"
    return f"{place}: {error['msg']}{given}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:59] + "…"


def _parameter_text(parameter: inspect.Parameter) -> str:
    hint = "" if parameter.annotation is parameter.empty else f": {hint_text(parameter.annotation)}"
    return f"{parameter.name}{hint}" + (" = …" if parameter.default is not parameter.empty else "")


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    quota: int | None = None,
    timeout: float | None = None,
    approval: Approval = "never",
    group: str = "",
    listed: bool = True,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    quota: int | None = None,
    timeout: float | None = None,
    approval: Approval = "never",
    group: str = "",
    listed: bool = True,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Offer a typed, documented function (sync or async) to the code in the sandbox: ``@tool``, or ``@tool(quota=3)``.

    Its parameters and result are what ``payload`` carries: JSON values, dataclasses, pydantic models, times, bytes,
    DataFrames. An exception in it arrives in the sandbox as an exception with its message; a ToolError raised on
    purpose keeps its words.

    ``quota``: how often it may be called in one run (one message of the user). ``timeout``: seconds that a call may
    take; an ordinary function that takes longer goes on in its thread, and its result is dropped. ``approval``: whether
    a person is asked before a call: ``never``, ``always``, or a predicate that gets the validated arguments by name. In
    both limits the time that a person takes is not counted. ``group`` and ``listed``: see ``ToolRules``.

    Raises UsageError for a function without a name, with ``*args``, or with types that JSON cannot carry, and for
    limits that are not positive.
    """
    if quota is not None and quota < 1:
        raise UsageError("the quota of a tool is at least 1")
    if timeout is not None and not timeout > 0:
        raise UsageError("the timeout of a tool is more than 0 seconds")
    if not callable(approval) and approval not in ("never", "always"):
        raise UsageError("approval is 'never', 'always', or a function of the arguments")
    asks: Literal["never", "always"] = "never" if approval == "never" else "always"
    rules = ToolRules(quota=quota, timeout=timeout, approval=asks, group=group, listed=listed)
    if function is not None:
        return Tool(function)
    return lambda decorated: Tool(decorated, rules, approval)
