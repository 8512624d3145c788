"""A model that says again what a recording holds: for tests, demos and looking at a run once more."""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from codeact.contracts import (
    Finish,
    Message,
    ModelChunk,
    ModelRequest,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from codeact.errors import ReplayDeparted
from codeact.events import Event, ModelReplied, Observed, RunStarted, ToolCalled
from codeact.models.estimate import estimate_usage


@dataclass(frozen=True)
class _Turn:
    """``reply`` where the history must repeat it; ``seen`` is what the model read last before it, if known."""

    text: str
    reply: Reply | None = None
    usage: Usage | None = None
    seen: str | None = None


class ReplayModel:
    """Gives the n-th reply to a conversation that holds the n − 1 before it, so one object serves any number of them.

    ``replies`` are raw texts, as a model would stream them, or taken-apart replies of a recording. The history must
    repeat recorded replies word for word (surrounding space aside); of raw texts only their number is compared, since
    the action format decides what of them stays. ``strict`` also compares what the model reads before each reply
    (the task, the observation) where the recording knows it; it fails on anything that varies, such as durations.
    ``calls``: the calls of host tools that a recording holds, which answer in their place; None where there is none.
    """

    def __init__(self, replies: Sequence[str | Reply], name: str = "replay", *, strict: bool = False) -> None:
        self.name = name
        self.accepts_images = True
        self.context_window: int | None = None
        self.strict = strict
        self.calls: tuple[ToolCalled, ...] | None = None
        self._turns = tuple(_Turn(r) if isinstance(r, str) else _Turn(r.text, r) for r in replies)

    @classmethod
    def from_events(cls, events: Iterable[Event], *, strict: bool = False) -> ReplayModel:
        """The model of a recorded conversation, of one run or of several that follow each other."""
        turns: list[_Turn] = []
        calls: list[ToolCalled] = []
        seen: str | None = None
        name = "replay"
        for event in events:
            if isinstance(event, RunStarted):
                seen = event.task
                name = f"replay of {event.model}" if event.model else name
            elif isinstance(event, Observed):
                seen = event.text
            elif isinstance(event, ToolCalled):
                calls.append(event)
            elif isinstance(event, ModelReplied):
                turns.append(_Turn(event.reply.text, event.reply, event.usage, seen))
                seen = None
        model = cls((), name, strict=strict)
        model._turns, model.calls = tuple(turns), tuple(calls)
        return model

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{self.name} ({len(self._turns)} recorded replies)"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """The recorded reply word by word, its usage and its end.

        Raises ReplayDeparted where the recording holds no reply for this conversation.
        """
        turn = self._turn_for(request)
        for piece in _words(turn.text):
            yield TextDelta(text=piece)
        call = turn.reply.tool_call if turn.reply else None
        if call is not None:
            yield ToolCallDelta(id=call.id, name=call.name)
            for piece in _words(call.arguments):
                yield ToolCallDelta(arguments=piece)
        usage = turn.usage
        if usage is None or not usage.prompt_tokens:
            usage = estimate_usage(request, (turn.text, call.arguments if call else ""))
        yield UsageReport(usage=usage, model=self.name)
        yield Finish(reason="stop" if call is None else "tool_calls")

    async def close(self) -> None:
        """Nothing to release."""

    def _turn_for(self, request: ModelRequest) -> _Turn:
        said = [message for message in request.messages if message.role == "assistant"]
        for number, (message, turn) in enumerate(zip(said, self._turns, strict=False), start=1):
            if turn.reply is not None and not _same(message, turn.reply):
                what = _difference(turn.text, message.text) or "another tool call"
                raise ReplayDeparted(f"turn {number} of the conversation is not the recorded one: {what}")
        if len(said) >= len(self._turns):
            raise ReplayDeparted(f"turn {len(said) + 1} is asked for, and the recording holds {len(self._turns)}")
        turn = self._turns[len(said)]
        if self.strict and turn.seen is not None:
            read = next((m.text for m in reversed(request.messages) if m.role in ("user", "tool")), "")
            # The action format puts a frame around what is recorded.
            if turn.seen.strip() not in read:
                what = _difference(turn.seen, read) or "the lines are in another order"
                raise ReplayDeparted(f"before turn {len(said) + 1} the model reads something else: {what}")
        return turn


def _same(message: Message, reply: Reply) -> bool:
    if message.text.strip() != reply.text.strip():
        return False
    then, now = reply.tool_call, message.tool_call
    return then is None or (now is not None and (then.name, then.arguments) == (now.name, now.arguments))


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _difference(recorded: str, now: str) -> str:
    """The first recorded line that is not there, and what stands in its place; empty if there is none."""
    then, there = recorded.strip().splitlines(), now.strip().splitlines()
    for kind, i, _, j, k in difflib.SequenceMatcher(None, then, there, autojunk=False).get_opcodes():
        if kind in ("replace", "delete"):
            instead = f"{there[j][:120]!r}" if k > j else "nothing"
            return f"line {i + 1} was {then[i][:120]!r}, now {instead}"
        if kind == "insert" and 0 < i < len(then):
            return f"after line {i} there is now {there[j][:120]!r}"
    return ""
