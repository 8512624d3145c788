"""``@tool``: functions of this process, called by code in a real session of the local sandbox."""

from __future__ import annotations

import asyncio
import enum
import inspect
import json
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import pytest_asyncio
from pydantic import BaseModel, Field

from codeact.contracts import HostTool, Sandbox, Session
from codeact.errors import ToolError, UsageError
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools import Tool, tool

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Point:
    x: int
    y: float = 0.5


class City(BaseModel):
    name: str
    people: int


class Unit(enum.Enum):
    METRES = "m"


@tool
def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    The second part of the documentation is for help() only.
    """
    return a + b


@tool
def shapes(text: str, numbers: list[int], table: dict[str, float], maybe: int | None = None) -> dict[str, Any]:
    return {"text": text, "numbers": numbers, "table": table, "maybe": maybe, "pid": os.getpid()}


@tool
def kinds(first: int, /, second: str, *, third: bool = False, fourth: float = 1.5) -> list[object]:
    return [first, second, third, fourth]


@tool
def move(point: Point, by: Point = Point(1, 1.0)) -> Point:  # noqa: B008
    assert isinstance(point, Point) and isinstance(by, Point)
    return Point(point.x + by.x, point.y + by.y)


@tool
def grow(city: City) -> City:
    return City(name=city.name.upper(), people=city.people + 1)


@tool
def awkward(limit: float = float("inf"), unit: Unit = Unit.METRES, nothing: int = None) -> str:  # type: ignore[assignment]  # noqa: RUF013
    return f"{limit} {unit} {nothing}"


@tool
def shadowing(copy: int, json: int, self: int, _private: int = 4) -> int:
    """Parameters called like methods of pydantic's models."""
    return copy * 1000 + json * 100 + self * 10 + _private


@tool
async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text[::-1]


@tool
def fails(kind: str) -> None:
    if kind == "tool":
        raise ToolError("the shop is closed on Sundays")
    if kind == "quiet":
        raise KeyError
    raise ValueError("no such fruit: durian")


@tool
def gives(what: str) -> Any:
    loop: list[object] = []
    loop.append(loop)
    return {"object": object(), "set": {1}, "loop": loop, "lambda": lambda: 0, "none": None}[what]


@tool
def promises_a_number() -> int:
    return "seven"  # type: ignore[return-value]


RELEASE = threading.Event()


@tool
def blocks() -> str:
    assert RELEASE.wait(60)
    return "released"


TOOLS: list[HostTool] = [
    add,
    shapes,
    kinds,
    move,
    grow,
    awkward,
    shadowing,
    later,
    fails,
    gives,
    promises_a_number,
    blocks,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    session = await sandbox.session(tools=TOOLS)
    yield session
    await session.close()


async def value(session: Session, code: str) -> str:
    result = await session.run(code)
    assert result.status == "ok" and result.result is not None, result
    return result.result


async def error(session: Session, code: str) -> str:
    """The exception that the code meets, as ``Name: message``."""
    result = await session.run(code)
    assert result.error is not None, result
    shown = "\n".join(result.error.traceback)
    assert __file__ not in shown and "tools/function.py" not in shown, "where in the host it happened is told"
    return f"{result.error.name}: {result.error.message}"


# --- calls from the sandbox ---------------------------------------------------------------------------------------


async def test_runs_in_this_process(session: Session) -> None:
    await session.run("told = shapes('é😀', [1, 2], {'a': 0.5})")
    assert await value(session, "list(told.values())") == f"['é😀', [1, 2], {{'a': 0.5}}, None, {os.getpid()}]"
    assert await value(session, "import os; os.getpid()") != str(os.getpid())


async def test_arguments_arrive_as_the_signature_says(session: Session) -> None:
    assert await value(session, "add(40), add(40, 3), add(b=1, a=1)") == "(42, 43, 2)"
    assert await value(session, "kinds(1, 'b')") == "[1, 'b', False, 1.5]"
    assert await value(session, "kinds(1, second='b', third=True, fourth=2)") == "[1, 'b', True, 2.0]"
    assert await value(session, "shapes('', [], {}, maybe=7)['maybe']") == "7"
    assert "TypeError" in await error(session, "kinds(first=1, second='b')"), "positional only"
    assert "TypeError" in await error(session, "kinds(1, 'b', True)"), "keyword only"
    assert "TypeError" in await error(session, "add()")
    assert await value(session, "shadowing(1, 2, 3), shadowing(1, json=2, self=3, _private=0)") == "(1234, 1230)"


async def test_structures_are_made_of_what_json_carries(session: Session) -> None:
    assert await value(session, "move({'x': 1}, {'x': 2, 'y': 1})") == "Point(x=3, y=1.5)"
    assert await value(session, "moved = move({'x': 1})\nmoved.x, moved['y'], move(moved, by=moved).x") == "(2, 1.5, 4)"
    assert await value(session, "grow({'name': 'oslo', 'people': 9})") == "City(name='OSLO', people=10)"


async def test_defaults_that_json_cannot_carry_stay_what_they_are(session: Session) -> None:
    assert await value(session, "awkward()") == "'inf Unit.METRES None'"
    assert await value(session, "awkward(3, 'm', 1)") == "'3.0 Unit.METRES 1'"


async def test_async_tools(session: Session) -> None:
    assert await value(session, "later('abc')") == "'cba'"
    assert await value(session, "[later(str(i)) for i in range(20)][-1]") == "'91'"


async def test_wrong_arguments_are_told_by_name(session: Session) -> None:
    assert await error(session, "add('x')") == (
        "ToolArgumentsWrong: add was called with wrong arguments: a: Input should be a valid integer, unable to parse "
        "string as an integer, not 'x'. It is add(a: int, b: int = …)"
    )
    told = await error(session, "grow({'name': 'oslo'})")
    assert "city.people: Field required" in told
    assert "numbers.1" in await error(session, "shapes('', [1, 'x'], {})")


async def test_what_is_no_json_is_not_sent(session: Session) -> None:
    assert "a value of the type object is not carried" in await error(session, "add(object())")


async def test_exceptions_arrive_as_their_message(session: Session) -> None:
    assert await error(session, "fails('plain')") == "ToolFailed: fails failed: ValueError: no such fruit: durian"
    assert await error(session, "fails('quiet')") == "ToolFailed: fails failed: KeyError: "
    assert await error(session, "fails('tool')") == "ToolFailed: the shop is closed on Sundays"


async def test_an_exception_can_be_caught_by_the_code(session: Session) -> None:
    assert await value(session, "try: fails('plain')\nexcept Exception as e: caught = str(e)\ncaught") == (
        "'fails failed: ValueError: no such fruit: durian'"
    )


async def test_results_that_are_not_json_are_told(session: Session) -> None:
    for what in ("object", "loop", "lambda"):
        assert "not JSON" in await error(session, f"gives({what!r})")
    assert await value(session, "gives('set'), gives('none')") == "({1}, None)"
    assert "a str that is not what it promises" in await error(session, "promises_a_number()")


async def test_help_shows_signature_and_documentation(session: Session) -> None:
    shown = (await session.run("help(add)")).stdout
    assert "add(a: int, b: int = 2) -> int\n" in shown
    assert "Add two numbers." in shown and "is for help() only." in shown
    assert (await session.run("help(kinds)")).stdout.splitlines()[2] == (
        "kinds(first: int, /, second: str, *, third: bool = False, fourth: float = 1.5) -> list[object]"
    )


async def test_the_model_is_told_of_the_tools(session: Session) -> None:
    assert "- add(a: int, b: int = 2) -> int: Add two numbers.\n" in session.description + "\n"
    assert "help() only" not in session.description


async def test_input_still_has_nobody_to_ask(session: Session) -> None:
    assert await error(session, "input('name? ')") == (
        "EOFError: input() has nobody to ask here; put the value into the code"
    )


async def test_the_time_limit_holds_while_a_tool_blocks(session: Session) -> None:
    RELEASE.clear()
    try:
        result = await session.run("kept = 1\nblocks()", timeout=0.5)
        assert result.status == "timeout" and "0.5 seconds" in (result.notice or "")
        assert await value(session, "kept, add(1)") == "(1, 3)", "the late answer is not taken for this call's"
    finally:
        RELEASE.set()


async def test_calls_past_the_stubs(session: Session) -> None:
    call = "from codeact.sandbox.kernelapp import call_host\ncall_host"
    assert await value(session, f"{call}('add', {{'a': 1}})") == "3"
    assert "there is no host tool 'rm'" in await error(session, f"{call}('rm', {{}})")
    assert "there is no host tool '__init__'" in await error(session, f"{call}('__init__', {{}})")
    assert "c: Extra inputs are not permitted" in await error(session, f"{call}('add', {{'a': 1, 'c': 2}})")
    assert "a: Field required" in await error(session, f"{call}('add', {{}})")
    assert "argument_0: Extra inputs" in await error(session, f"{call}('add', {{'argument_0': 1}})")
    for garbage in ("[]", "None", "'text'", "1"):
        assert "ToolArgumentsWrong" in await error(session, f"{call}('add', {garbage})")
    deep = f"x = []\nfor _ in range(900): x = [x]\n{call}('add', {{'a': x}})"
    assert "nested more than 50 levels" in await error(session, deep)
    past = "from codeact.sandbox.kernelapp import Kernel\nKernel.instance().ask_host"
    forged = '{"tool": "add", "arguments": {"a": ' + "[" * 900 + "]" * 900 + "}}"
    assert "nested too deeply" in await value(session, f"{past}({forged!r})")
    marked = '{"tool": "shapes", "arguments": {"text": {"$codeact": "pickle", "base64": "gASVAA=="}}}'
    assert "a value of the unknown kind" in await value(session, f"{past}({marked!r})")
    assert await value(session, "add(1)") == "3"


# --- on this side -------------------------------------------------------------------------------------------------


async def test_a_tool_is_still_a_function() -> None:
    assert add(1, 1) == 2 and isinstance(add, Tool) and isinstance(add, HostTool)


async def test_call_validates_and_converts() -> None:
    assert await add.call({"a": "40", "b": 2}) == 42
    with pytest.raises(ToolError, match="wrong arguments: a: Field required"):
        await add.call({})


async def test_constraints_of_annotated_types_hold() -> None:
    @tool
    def half(n: Annotated[int, Field(ge=0)]) -> float:
        return n / 2

    assert await half.call({"n": 1}) == 0.5
    with pytest.raises(ToolError, match="greater than or equal to 0"):
        await half.call({"n": -1})


async def test_methods_can_be_tools() -> None:
    class Shop:
        def price(self, fruit: str) -> float:
            return {"apple": 0.4}[fruit]

    price = tool(Shop().price)
    assert price.description == "price(fruit: str) -> float"
    assert await price.call({"fruit": "apple"}) == 0.4


async def test_blocking_tools_do_not_hold_up_this_process() -> None:
    RELEASE.clear()
    waiting = asyncio.ensure_future(blocks.call({}))
    assert await add.call({"a": 1}) == 3 and not waiting.done()
    RELEASE.set()
    assert await waiting == "released"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, "a tool needs a name"),
        (print, r"takes \*args"),
        (dict, "no signature"),
    ],
)
async def test_what_cannot_be_a_tool(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tool(function)


async def test_types_that_json_cannot_carry_are_refused() -> None:
    def takes(sandbox: Tool) -> None: ...
    def gives_back() -> Tool: ...  # type: ignore[empty-body]
    def unknown(amount: Decimal) -> None: ...
    def keywords(**options: int) -> None: ...

    for function, message in (
        (takes, "type that JSON cannot carry"),
        (gives_back, "type that JSON cannot carry"),
        (unknown, "'Decimal' is not defined"),
        (keywords, r"takes \*options"),
    ):
        with pytest.raises(UsageError, match=message):
            tool(function)


@pytest.mark.parametrize("made", TOOLS, ids=lambda made: made.name)
async def test_stubs_are_python_that_needs_nothing_to_be_defined(made: HostTool, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(made.stub, str(tmp_path / "stub.py"), "exec"), names)
    parameters = inspect.signature(names[made.name]).parameters
    assert isinstance(made, Tool) and list(parameters) == list(made.signature.parameters)
    defaults = [p.default for p in parameters.values() if p.default is not p.empty]
    assert json.loads(json.dumps(defaults, allow_nan=False)) == defaults
