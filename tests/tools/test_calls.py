"""Calls of host tools from real sessions: values, rules, many at once, search, forks."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pandas as pd
import pytest
import pytest_asyncio
from pydantic import BaseModel, SecretStr

from codeact.contracts import Answer, ExecutionResult, Happening, HostCall, Question, Sandbox, Session
from codeact.errors import ToolError, UsageError
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools import Tool, tool

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Item:
    name: str
    due: datetime.date


class Order(BaseModel):
    id: uuid.UUID
    lines: list[Item]
    price: decimal.Decimal
    level: Level = Level.LOW


class Account(BaseModel):
    owner: str
    password: SecretStr


@tool
def place(order: Order, at: datetime.datetime, took: datetime.timedelta, raw: bytes) -> Order:
    """Place an order."""
    assert type(order) is Order and type(order.lines[0]) is Item and at.tzinfo and took.days == 1 and raw == b"\x00\xff"
    return order.model_copy(update={"price": order.price * 2})


@tool
def moments() -> tuple[datetime.datetime, datetime.date, datetime.timedelta, bytes, decimal.Decimal, Level]:
    day = datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)
    return day, day.date(), datetime.timedelta(hours=1), b"\x00", decimal.Decimal("1.10"), Level.HIGH


@tool
def double(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Double a column."""
    return frame.assign(**{column: frame[column] * 2})


@tool
def totals(frames: dict[str, pd.DataFrame]) -> pd.Series:
    return pd.Series({name: frame["n"].sum() for name, frame in frames.items()})


@tool
def account() -> Account:
    return Account(owner="Ann", password=SecretStr("hunter2"))


@tool
def large(size: int) -> str:
    return "x" * size


@tool
def lookup(kind: str) -> None:
    raise {
        "value": ValueError("no such fruit"),
        "missing": FileNotFoundError(2, "No such file", "/secret"),
        "own": Own(),
    }[kind]


class Own(Exception):
    def __str__(self) -> str:
        return "an error of the host's own"


@tool(quota=2)
def rare(n: int) -> int:
    return n


@tool(timeout=0.2)
async def endless() -> None:
    await asyncio.Event().wait()


RELEASE = threading.Event()


@tool(timeout=0.2)
def stuck() -> None:
    assert RELEASE.wait(60)


@tool(timeout=30)
def late() -> None:
    raise TimeoutError("the shop did not answer")


@tool(approval=lambda to, amount: amount > 100, timeout=5)
def pay(to: str, amount: int = 5) -> str:
    """Pay somebody."""
    return f"{amount} to {to}"


@tool(approval=lambda n: 1 // n > 0)
def odd_rule(n: int) -> int:
    return n


@tool(group="files")
def read_page(url: str) -> str:
    """Read a page of the handbook."""
    return url


TOOLS = [place, moments, double, totals, account, large, lookup, rare, endless, stuck, late, pay, odd_rule, read_page]


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
    result = await session.run(code)
    assert result.error is not None, result
    assert __file__ not in "\n".join(result.error.traceback)
    return f"{result.error.name}: {result.error.message}"


async def watched(session: Session, code: str, answers: dict[str, Answer], **options: float) -> list[Happening]:
    """All that happens; questions are answered by the text of their arguments, and left open where there is none."""
    seen: list[Happening] = []
    async for item in session.execute(code, **{"ask": 10.0, **options}):  # type: ignore[arg-type]
        seen.append(item)
        if isinstance(item, Question) and str(item.arguments) in answers:
            assert session.answer(item.id, answers[str(item.arguments)])
    return seen


def last(seen: list[Happening]) -> ExecutionResult:
    assert isinstance(seen[-1], ExecutionResult)
    return seen[-1]


def calls(seen: list[Happening]) -> list[HostCall]:
    return [item for item in seen if isinstance(item, HostCall)]


# --- values -------------------------------------------------------------------------------------------------------


async def test_models_and_times_go_both_ways(session: Session) -> None:
    code = """
import datetime as d, decimal, uuid, dataclasses
@dataclasses.dataclass
class Mine:
    name: str
    due: d.date
order = {"id": uuid.UUID(int=7), "lines": [Mine("a", d.date(2020, 1, 2))], "price": decimal.Decimal("1.10")}
placed = place(order, d.datetime.now(d.UTC), d.timedelta(days=1), b"\\x00\\xff")
placed.id.int, placed.lines[0].due.year, placed.price, placed["level"], type(placed).__name__
"""
    assert await value(session, code) == "(7, 2020, Decimal('2.20'), 'low', 'Record')"
    again = "place(placed, d.datetime.now(d.UTC), d.timedelta(days=1), b'\\x00\\xff').price"
    assert await value(session, again) == "Decimal('4.40')"
    same = "(m, m.date(), d.timedelta(hours=1), b'\\x00', decimal.Decimal('1.10'), 'high')"
    assert await value(session, f"m = d.datetime(2020, 1, 2, 3, tzinfo=d.UTC)\nmoments() == {same}") == "True"


async def test_frames_go_both_ways(session: Session) -> None:
    code = """
import pandas as pd
f = pd.DataFrame({"n": [1, 2], "t": pd.date_range("2020", periods=2, tz="UTC"), "c": pd.Categorical(["a", "b"])})
f.index = ["x", "y"]
g = double(f, "n")
assert (g.dtypes == f.dtypes).all() and (g["t"] == f["t"]).all()
g["n"].to_dict(), totals({"f": f, "g": g}).to_dict()
"""
    assert await value(session, code) == "({'x': 2, 'y': 4}, {'f': 3, 'g': 6})"
    assert "frame: Input should be an instance of DataFrame, not 'x'" in await error(session, "double('x', 'n')")
    assert "DataFrame" in double.description


async def test_secrets_of_models_stay_here(session: Session) -> None:
    assert await value(session, "account()['owner'], account()['password']") == "('Ann', '**********')"


async def test_sizes_are_bounded_with_a_word(session: Session) -> None:
    assert "9.0 MiB; 8 MiB is the most: ask it for less" in await error(session, f"large({9 << 20})")
    assert "8 MiB is the most: send less" in await error(session, "read_page('x' * (9 << 20))")
    assert await value(session, f"len(large({7 << 20}))") == str(7 << 20)
    told = f"found = large.map([{7 << 20}] * 4, return_exceptions=True)\n[type(x).__name__ for x in found]"
    assert await value(session, told) == "['str', 'str', 'ToolFailed', 'ToolFailed']"


# --- exceptions ---------------------------------------------------------------------------------------------------


async def test_exceptions_are_of_the_tool_s_kind(session: Session) -> None:
    assert await error(session, "lookup('value')") == "ToolFailed: lookup failed: ValueError: no such fruit"
    code = "try: lookup({!r})\nexcept {} as e: told = isinstance(e, ToolFailed), str(e)\ntold"
    assert (
        await value(session, code.format("value", "ValueError")) == "(True, 'lookup failed: ValueError: no such fruit')"
    )
    assert "No such file" in await value(session, code.format("missing", "OSError"))
    assert "an error of the host's own" in await value(session, code.format("own", "ToolFailed"))
    assert "read_page was called" in await value(
        session, "try: read_page(1)\nexcept TypeError as e: told = str(e)\ntold"
    )


# --- rules --------------------------------------------------------------------------------------------------------


async def test_a_quota_holds_for_a_run(session: Session) -> None:
    code = "try: rare('x')\nexcept ToolArgumentsWrong: pass\nprint([rare(1), rare(2)])\nrare(3)"
    for run in ("one", "two"):
        result = last([item async for item in session.execute(code, run=run)])
        assert result.stdout == "[1, 2]\n" and result.error is not None
        assert result.error.name == "ToolQuotaExceeded" and "2 times in one run" in result.error.message
    assert last([i async for i in session.execute("rare(1)", run="two")]).status == "error", "the same run"
    assert await value(session, "rare(1)") == "1", "no run: each execution is one"
    assert await value(session, "rare.map(range(4), return_exceptions=True)[:2]") == "[0, 1]"


async def test_a_time_limit_is_an_exception(session: Session) -> None:
    try:
        for name in ("endless", "stuck"):
            assert await error(session, f"{name}()") == f"ToolTimeout: {name} did not answer within 0.2 seconds"
    finally:
        RELEASE.set()
    assert await value(session, "try: endless()\nexcept TimeoutError: told = 1\ntold") == "1"
    assert await error(session, "late()") == "ToolFailed: late failed: TimeoutError: the shop did not answer"


async def test_a_predicate_decides_who_is_asked(session: Session) -> None:
    assert await value(session, "pay('Ann', 7)") == "'7 to Ann'"
    assert "ToolRefused: pay needs a person's approval, and there is nobody to ask here" in await error(
        session, "pay('Bob', 101)"
    )
    assert "ToolRefused: the approval rule of odd_rule failed: ZeroDivisionError" in await error(session, "odd_rule(0)")
    assert "ToolArgumentsWrong" in await error(session, "pay('Ann', 'much')"), "told before anybody is asked"
    seen = await watched(session, "pay(1)", {})
    assert "ToolArgumentsWrong" in str(last(seen).error) and len(seen) == len(
        [i for i in seen if not isinstance(i, Question)]
    )


async def test_the_person_s_time_counts_for_no_limit(session: Session) -> None:
    """The person takes longer than the code and the tool together may."""
    code = "one = pay('Ann', 200)\ntwo = pay('Bob', 300)\nprint(one, two)"
    seen: list[Happening] = []
    async for item in session.execute(code, ask=60, timeout=1):
        seen.append(item)
        if isinstance(item, Question):
            await asyncio.sleep(0.8)  # what is tested is that time passes
            assert session.answer(item.id, Answer(approved=True))
    result = last(seen)
    assert (result.status, result.stdout) == ("ok", "200 to Ann 300 to Bob\n")
    assert all(call.waited >= 0.7 and call.duration >= call.waited for call in calls(seen))


async def test_a_decision_has_a_limit_of_its_own(session: Session) -> None:
    seen = await watched(session, "pay('Ann', 200)", {}, ask=0.2)
    refused = last(seen).error
    assert refused is not None and refused.name == "ToolRefused"
    assert refused.message == "nobody decided within 0.2 seconds whether pay may be called"
    seen = await watched(session, "input('well? ')", {}, ask=0.2)
    assert last(seen).error is not None and "EOFError" in str(last(seen).error)


async def test_each_of_many_calls_is_decided_on(session: Session) -> None:
    answers = {
        str({"to": "a", "amount": 101}): Answer(approved=True),
        str({"to": "b", "amount": 102}): Answer(text="not b"),
        str({"to": "c", "amount": 103}): Answer(approved=True),
    }
    code = "pay.map(['a', 'b', 'c', 'd'], [101, 102, 103, 4], return_exceptions=True)"
    seen = await watched(session, f"[str(x) for x in {code}]", answers)
    assert last(seen).result == "['101 to a', 'the user refused this call of pay: not b', '103 to c', '4 to d']"
    assert sorted((c.arguments["to"], c.approval) for c in calls(seen)) == [
        ("a", "approved"), ("b", "refused"), ("c", "approved"), ("d", ""),
    ]  # fmt: skip


async def test_what_is_allowed_is_what_was_shown(session: Session) -> None:
    """A call past the stub without its default: the person reads the default all the same."""

    @tool(approval="always")
    def send(text: str, to: str = "everybody") -> str:
        return f"{text} to {to}"

    call = "from codeact.sandbox.kernelapp import call_host\ncall_host('send', {'text': 'hi'})"
    sandbox = session._sandbox  # type: ignore[attr-defined]
    other = await sandbox.session(tools=[send])
    try:
        seen = await watched(other, call, {str({"text": "hi", "to": "everybody"}): Answer(approved=True)})
        assert last(seen).result == "'hi to everybody'"
    finally:
        await other.close()


# --- many ---------------------------------------------------------------------------------------------------------


async def test_map_takes_arguments_as_the_function_does(session: Session) -> None:
    assert await value(session, "pay.map(['a', 'b'], amount=9)") == "['9 to a', '9 to b']"
    assert await value(session, "pay.map(x for x in 'ab')") == "['5 to a', '5 to b']"
    assert await value(session, "pay.map([])") == "[]"
    assert "TypeError" in await error(session, "pay.map(['a'], nothing=1)")
    assert "ValueError" in await error(session, "pay.map(['a', 'b'], [1])")
    assert "ToolArgumentsWrong" in await error(session, "pay.map(['a', 1])")


async def test_map_of_many(session: Session) -> None:
    seen = [item async for item in session.execute("len(read_page.map(str(n) for n in range(300)))")]
    assert last(seen).result == "300" and len({call.id for call in calls(seen)}) == 300


async def test_calls_have_a_bound(session: Session) -> None:
    forged = "k = __import__('codeact.sandbox.kernelapp').sandbox.kernelapp.Kernel.instance()\nk.ask_host"
    many = '{"calls": [' + ", ".join(['{"tool": "rare", "arguments": {}}'] * 65) + "]}"
    assert "at most 64 calls" in await value(session, f"{forged}({many!r})")
    assert "this is no call" in await value(session, f"{forged}('[]')")
    assert "no host tool" in await value(session, f"{forged}('{{\"calls\": [1, null, []]}}')")


# --- finding ------------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[Tool]:
    """Tools of two groups."""
    made = []
    for number in range(count):

        def function(text: str) -> str:
            return text

        function.__name__ = f"{'mail' if number % 2 else 'page'}_{number}"
        function.__doc__ = (
            f"Work on the {'letter' if number % 2 else 'sheet'} number {number}.\n\nSecret word: x{number}y."
        )
        made.append(tool(group="mail" if number % 2 else "")(function))
    return made


async def test_hundreds_of_tools_cost_no_prompt(sandbox: Sandbox) -> None:
    session = await sandbox.session(tools=numbered(301))
    try:
        told = session.description
        assert "mail (150), other (151)" in told and "tools.find('words')" in told
        assert "Work on" not in told and len(told) < 1500
        assert (
            await value(session, "tools.find('letter 33')[0]")
            == "'mail_33(text: str) -> str: Work on the letter number 33.  [mail]'"
        )
        assert (
            await value(session, "tools.find('x17y')")
            == "mail_17(text: str) -> str: Work on the letter number 17.  [mail]"
        )
        assert (
            await value(session, "len(tools.find('letter')), len(tools.find('')), len(tools.find('', group='mail'))")
            == "(21, 301, 150)"
        )
        assert (
            await value(session, "tools.groups, tools.mail_3('a'), page_2('b')") == "({'': 151, 'mail': 150}, 'a', 'b')"
        )
        assert "tools.groups lists" in await value(session, "tools.find('zebra')")
        assert "tools.find('words')" in await error(session, "tools.nothing")
        assert (
            await value(session, "[n for n in dir(tools) if n.startswith('mail_29')]")
            == "['mail_29', 'mail_291', 'mail_293', 'mail_295', 'mail_297', 'mail_299']"
        )
        assert (await session.variables()) == ()
    finally:
        await session.close()


async def test_few_tools_are_listed(session: Session) -> None:
    told = session.description
    assert "- read_page(url: str) -> str: Read a page of the handbook.\n" in told
    assert "tools.find" not in told
    assert (await session.run("help(read_page)")).stdout.splitlines()[2] == "read_page(url: str) -> str"
    shown = (await session.run("help(place)")).stdout
    assert "place(order: Order, at: datetime, took: timedelta, raw: bytes) -> Order" in shown
    assert "Order: {id: UUID, lines: list[Item], price: Decimal, level: Level}" in shown
    assert "Item: {name: str, due: date}" in shown and "Level: one of 'low', 'high'" in shown
    assert "Order" in place.description and "tests." not in place.description
    completed = (
        "complete = get_ipython().kernel.do_complete\ncomplete('pay.m', 5)['matches'], complete('read_p', 6)['matches']"
    )
    assert await value(session, completed) == "(['map'], ['read_page'])"


async def test_what_is_not_to_be_listed_is_found(sandbox: Sandbox) -> None:
    hidden = tool(listed=False, group="crm")(numbered(1)[0].function)
    session = await sandbox.session(tools=[hidden, read_page])
    try:
        assert "- read_page" in session.description and "page_0" not in session.description
        assert "More functions that run outside of the notebook, by group: crm (1)." in session.description
    finally:
        await session.close()


@pytest.mark.parametrize(("names", "message"), [(("a", "a"), "same name"), (("tools",), "cannot be called 'tools'")])
async def test_names_that_cannot_be(sandbox: Sandbox, names: tuple[str, ...], message: str) -> None:
    made = []
    for name in names:

        def function() -> None: ...

        function.__name__ = name
        made.append(tool(function))
    with pytest.raises(UsageError, match=message):
        await sandbox.session(tools=made)


async def test_rules_that_cannot_be() -> None:
    for rules in ({"quota": 0}, {"timeout": 0}, {"timeout": float("nan")}, {"approval": "sometimes"}):
        with pytest.raises(UsageError):
            tool(**rules)(len)


# --- sessions -----------------------------------------------------------------------------------------------------


async def test_a_fork_keeps_its_tools(session: Session) -> None:
    await session.run("mine = pay")
    fork = await session.fork()
    try:
        assert (
            await value(fork, "mine('Ann'), pay.map(['b']), len(tools.find(''))")
            == f"('5 to Ann', ['5 to b'], {len(TOOLS)})"
        )
        seen = await watched(fork, "pay('Ann', 500)", {str({"to": "Ann", "amount": 500}): Answer(approved=True)})
        assert last(seen).result == "'500 to Ann'"
        assert "ToolRefused" in await error(fork, "pay('Ann', 500)")
    finally:
        await fork.close()


async def test_threads_of_the_code_call_too(session: Session) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: told = list(pool.map(pay, ['a', 'b', 'c', 'd']))\ntold"
    )
    assert await value(session, code) == "['5 to a', '5 to b', '5 to c', '5 to d']"


async def test_input_without_a_person_fails_at_once(session: Session) -> None:
    assert await error(session, "input('name? ')") == (
        "EOFError: input() has nobody to ask here; put the value into the code"
    )
    assert ToolError("x").kind == "failed"
