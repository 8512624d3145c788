"""The host tools of one session: what the kernel and the model are told of them, and the calls that come in.

A call is untrusted from its first byte. It is parsed within bounds, its tool looked up by name, its id made here. A
person is asked before anything runs, one question at a time. What goes back has a bounded size.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from codeact import payload
from codeact.contracts import Answer, HostCall, HostTool, Question, ToolRules
from codeact.errors import ToolError, UsageError
from codeact.sandbox.channels import encodable, load
from codeact.sandbox.wire import BATCH, NO_ANSWER

LISTED = 20
"""Tools that are described in the prompt; where there are more, only their groups are."""

AT_ONCE = 8
"""Calls of one session that the host runs at the same time."""

_MOST_CALLS = 10_000  # in one execution
_RECORDED = 64 << 20  # characters of arguments and results that are told of one execution
_ANSWER = 20 << 20  # characters of one answer to the kernel
_RESERVED = ("tools",)


def rules_of(tool: HostTool) -> ToolRules:
    """How that tool may be called."""
    rules = getattr(tool, "rules", None)
    return rules if isinstance(rules, ToolRules) else ToolRules()


def check(tools: Mapping[str, HostTool], given: int) -> None:
    """Raises UsageError for names that cannot be."""
    if len(tools) < given:
        raise UsageError("two host tools have the same name; rename one")
    for name in tools:
        if name in _RESERVED:
            raise UsageError(f"a host tool cannot be called {name!r}, which is the name to search them by")


def description(tools: Mapping[str, HostTool]) -> str:
    """What the model is told of them, empty where there are none."""
    if not tools:
        return ""
    listed = [tool for tool in tools.values() if rules_of(tool).listed]
    if len(listed) > LISTED:
        listed = []
    lines = []
    if listed:
        lines.append("These functions are defined and run outside of the notebook; call them directly:")
        lines += [f"- {tool.description}" for tool in listed]
    hidden = collections.Counter(rules_of(t).group or "other" for t in tools.values() if t not in listed)
    if hidden:
        groups = ", ".join(f"{name} ({count})" for name, count in sorted(hidden.items()))
        lines.append(
            f"{'More' if listed else 'There are'} functions that run outside of the notebook, by group: {groups}. "
            "Search them with `tools.find('words')`, which returns signatures; then call them directly by name."
        )
    lines.append(
        "`help(name)` tells all of such a function; `name.map(values)` calls it for many values at once; it raises "
        "ToolFailed where it fails."
    )
    return "\n".join(lines)


def source(tools: Mapping[str, HostTool]) -> str:
    """What defines them in a kernel."""
    listed = [
        {"name": name, "group": rules_of(tool).group, "description": encodable(tool.description)}
        for name, tool in tools.items()
    ]
    stubs = "\n".join(tool.stub for tool in tools.values())
    return f"{stubs}\n__import__('codeact.sandbox.kerneltools').sandbox.kerneltools.offer(globals(), {listed!r})"


class Quotas:
    """How often each tool was called in the current run."""

    def __init__(self) -> None:
        self._run = ""
        self._used: collections.Counter[str] = collections.Counter()

    def begin(self, run: str) -> None:
        if not run or run != self._run:
            self._run = run
            self._used.clear()

    def take(self, name: str, quota: int | None) -> None:
        """Count one call. Raises ToolError where there is none left."""
        if quota is not None and self._used[name] >= quota:
            times = "once" if quota == 1 else f"{quota} times"
            message = f"{name} may be called {times} in one run, and was: go on with what you have"
            raise ToolError(message, "quota")
        self._used[name] += 1

    def give_back(self, name: str) -> None:
        """A call that was counted did not run."""
        self._used[name] -= 1


class Calls:
    """The calls of one execution. ``told`` collects what there is to tell; ``tell`` is called when there is something.

    ``patience``: seconds that a person has for an answer, 0 where nobody is there.
    """

    def __init__(
        self, tools: Mapping[str, HostTool], quotas: Quotas, patience: float, tell: Callable[[], object]
    ) -> None:
        self._tools = tools
        self._quotas = quotas
        self._patience = patience
        self._tell = tell
        self.told: collections.deque[HostCall | Question] = collections.deque()
        self._count = 0
        self._room = _RECORDED
        self._places = asyncio.Semaphore(AT_ONCE)
        self._asking = asyncio.Lock()
        self._open: dict[str, asyncio.Future[Answer]] = {}
        self._asked_at: float | None = None
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds in which a person was being waited for."""
        return self._waited + (time.monotonic() - self._asked_at if self._asked_at is not None else 0)

    def answer(self, question: str, answer: Answer) -> bool:
        waiting = self._open.get(question)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(answer)
        return True

    # --- what the kernel asks ---

    async def serve(self, question: str) -> str:
        """Run what a question of the kernel asks for; the answer, as JSON."""
        try:
            asked = load(question)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return json.dumps({"error": "this is no call of a host tool"})
        if "calls" not in asked:
            return _bounded(await self._one(asked), _ANSWER)
        calls = asked["calls"]
        if not isinstance(calls, list) or len(calls) > BATCH:
            return json.dumps({"error": f"a batch is a list of at most {BATCH} calls"})
        tasks = [asyncio.ensure_future(self._one(call)) for call in calls]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        packed: list[str] = []
        for answer in answers:
            packed.append(_bounded(answer, _ANSWER - sum(map(len, packed))))
        return f'{{"results":[{",".join(packed)}]}}'

    async def input(self, prompt: str, password: bool) -> str:
        """What a person types where ``input()`` or ``getpass()`` asks."""
        call = _Call(self, "input", {"prompt": prompt})
        if self._patience <= 0:
            return NO_ANSWER
        try:
            answer = await self._ask(call, Question(id=call.id, kind="input", prompt=prompt, password=password))
        except asyncio.CancelledError:
            call.ended(error="the code was stopped")
            raise
        if answer is None or answer.text is None:
            call.ended(error="there was no answer")
            return NO_ANSWER
        typed = encodable(answer.text)[: payload.LARGEST]
        call.ended(result=None if password else typed)
        return typed

    async def _one(self, asked: object) -> dict[str, Any]:
        """One call, told; what the kernel is answered."""
        told = asked if isinstance(asked, dict) else {}
        name, arguments = told.get("tool"), told.get("arguments")
        known = isinstance(name, str) and name in self._tools and isinstance(arguments, dict)
        if payload.too_deep(arguments):
            known, arguments = False, None
        call = _Call(self, encodable(name)[:100], _writable(arguments) if known else {})
        try:
            self._count += 1
            if self._count > _MOST_CALLS:
                raise ToolError(f"one execution may call tools {_MOST_CALLS:,} times, and did", "quota")
            if not isinstance(name, str) or name not in self._tools:
                raise ToolError(f"there is no host tool {call.tool!r}")
            if not isinstance(arguments, dict):
                raise ToolError(
                    f"{name} was called with wrong arguments: they are no object, or nested too deeply", "arguments"
                )
            result = await self._run(call, self._tools[name])
        except ToolError as error:
            message = encodable(error)[:20_000]
            call.ended(error=message, kind=error.kind, type_name=error.type_name)
            return {"error": message, "kind": error.kind, "type": error.type_name}
        except asyncio.CancelledError:
            call.ended(error="the code was stopped before the call ended")
            raise
        except Exception as error:  # a mistake in the tool is told where it was called, and ends nothing here
            message = encodable(f"the tool failed: {type(error).__name__}: {error}")[:20_000]
            call.ended(error=message, kind="failed", type_name=type(error).__name__)
            return {"error": message, "kind": "failed", "type": type(error).__name__}
        call.ended(result=result)
        return {"result": result}

    async def _run(self, call: _Call, tool: HostTool) -> Any:
        rules = rules_of(tool)
        arguments: dict[str, object] = dict(call.arguments)
        decide = getattr(tool, "needs_approval", None)
        needs = bool(decide(arguments)) if decide is not None else rules.approval != "never"
        self._quotas.take(tool.name, rules.quota)
        try:
            if needs:
                await self._approve(call, tool)
            outcome = await self._result(tool, arguments, rules.timeout)
        except ToolError as error:
            if error.kind in ("arguments", "refused"):  # it did not run
                self._quotas.give_back(tool.name)
            raise
        try:
            text = json.dumps(outcome, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolError(f"{tool.name} gave back what is not JSON: {error}") from error
        if len(text) > payload.LARGEST:
            size, most = len(text) / 2**20, payload.LARGEST >> 20
            raise ToolError(f"{tool.name} gave back {size:.1f} MiB; {most} MiB is the most: ask it for less")
        if payload.too_deep(outcome):
            raise ToolError(f"{tool.name} gave back what is nested too deeply")
        return _writable(outcome)

    async def _result(self, tool: HostTool, arguments: dict[str, object], limit: float | None) -> object:
        async with self._places:
            clock = asyncio.timeout(limit)
            try:
                async with clock:
                    outcome = tool.call(arguments)
                    return await outcome if inspect.isawaitable(outcome) else outcome
            except TimeoutError as error:
                if not clock.expired():
                    raise
                raise ToolError(f"{tool.name} did not answer within {limit:g} seconds", "timeout") from error

    # --- the person ---

    async def _approve(self, call: _Call, tool: HostTool) -> None:
        """Raises ToolError where the person does not allow it."""
        call.approval = "refused"
        if self._patience <= 0:
            message = f"{tool.name} needs a person's approval, and there is nobody to ask here"
            raise ToolError(message, "refused")
        shown = call.arguments | {k: v for k, v in getattr(tool, "defaults", {}).items() if k not in call.arguments}
        answer = await self._ask(call, Question(id=call.id, kind="approval", tool=tool.name, arguments=shown))
        if answer is None:
            message = f"nobody decided within {self._patience:g} seconds whether {tool.name} may be called"
            raise ToolError(message, "refused")
        if not answer.approved:
            reason = f": {encodable(answer.text)[:2000]}" if answer.text else ""
            raise ToolError(f"the user refused this call of {tool.name}{reason}", "refused")
        call.approval = "approved"

    async def _ask(self, call: _Call, question: Question) -> Answer | None:
        """Put one question after the other. None where the time for an answer is over."""
        async with self._asking:
            waiting = self._open[question.id] = asyncio.get_running_loop().create_future()
            self._asked_at = asked_at = time.monotonic()
            self._add(question)
            try:
                async with asyncio.timeout(self._patience):
                    answer: Answer = await waiting
                    return answer
            except TimeoutError:
                return None
            finally:
                call.waited = time.monotonic() - asked_at
                self._waited += call.waited
                self._asked_at = None
                del self._open[question.id]

    # --- what is told ---

    def _add(self, happening: HostCall | Question) -> None:
        self.told.append(happening)
        self._tell()

    def record(self, call: HostCall, size: int) -> None:
        """Tell of a call; its values are left out where the execution has told too much."""
        self._room -= size
        if self._room < 0:
            left_out = f"{size:,} characters are not kept: the execution's calls had too much already"
            result = None if call.result is None else left_out
            call = call.model_copy(update={"arguments": {"left out": left_out}, "result": result})
        self._add(call)


class _Call:
    """A call under way."""

    def __init__(self, calls: Calls, tool: str, arguments: dict[str, Any]) -> None:
        self.id = secrets.token_hex(6)
        self.tool = tool
        self.arguments = arguments
        self.waited = 0.0
        self.approval: Literal["", "approved", "refused"] = ""
        self._calls = calls
        self._began = time.monotonic()

    def ended(self, *, result: Any = None, error: str | None = None, kind: str = "", type_name: str = "") -> None:
        told = HostCall(
            id=self.id,
            tool=self.tool,
            arguments=self.arguments,
            result=result,
            error=error,
            error_kind=kind,
            error_type=type_name,
            duration=time.monotonic() - self._began,
            waited=self.waited,
            approval=self.approval,
        )
        self._calls.record(told, len(json.dumps([self.arguments, result])) if self.arguments or result else 100)


def _writable(value: Any) -> Any:
    """JSON values without halves of surrogate pairs, which no file takes."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return value


def _bounded(answer: dict[str, Any], room: int) -> str:
    text = json.dumps(answer)
    if len(text) > max(room, 0) and "result" in answer:
        return json.dumps({"error": "the results are too large together: ask for less at once", "kind": "failed"})
    return text
