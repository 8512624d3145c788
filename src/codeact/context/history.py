"""The events of a conversation as the messages that a model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from codeact.context.tokens import IMAGE_TOKENS, MESSAGE_TOKENS, counted_text, estimate_tokens
from codeact.contracts import ActionFormat, ExecutionResult, Image, Message, Reply, Usage
from codeact.events import Compacted, Event, ExecutionFinished, ModelReplied, Notice, Observed, Resumed, RunStarted
from codeact.observation import changes_text
from codeact.plaintext import plain, short, shorten

WHOLE = Compacted()
"""Nothing is left out."""

_NOT_RUN = "[This code was not run: the run ended before it.]"


def messages(events: Iterable[Event], *, format: ActionFormat, max_images: int = 4) -> tuple[Message, ...]:
    """The whole conversation as messages: system, user, assistant and observation messages, nothing left out but all
    images before the last ``max_images``."""
    return last_images(History.of(events, format, max_images=max_images).view(WHOLE), max_images)


@dataclass(slots=True)
class Entry:
    """A message, what it is, and its twin without the output, to be sent where there is no room for it."""

    message: Message
    kind: Literal["task", "reply", "observation"]
    elided: Message | None = None
    tokens: int = 0
    saving: int = 0


def _estimate(message: Message) -> int:
    return estimate_tokens(counted_text(message)) + MESSAGE_TOKENS


@dataclass(slots=True)
class History:
    """The conversation as far as it is read: ``entries`` are its messages, the system prompt aside.

    ``cut`` is what the last ``Compacted`` event left out. ``counted`` is the server's count of the last prompt for
    which it gave one, with our own count of that prompt. ``count`` counts the tokens of a message.
    """

    format: ActionFormat
    max_images: int = 4
    count: Callable[[Message], int] = _estimate
    prompt: str = ""
    entries: list[Entry] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unanswered: Reply | None = None  # its code has no outcome yet
    result: ExecutionResult | None = None  # of the code whose observation comes next
    cut: Compacted = WHOLE
    counted: tuple[int, int] | None = None
    tokens: int = 0  # of the entries as cut
    images: int = 0

    @classmethod
    def of(
        cls,
        events: Iterable[Event],
        format: ActionFormat,
        *,
        max_images: int = 4,
        count: Callable[[Message], int] = _estimate,
        whole: bool = False,
    ) -> History:
        """All of ``events``, the model being asked next. ``whole``: what was left out is in again."""
        history = cls(format, max_images, count)
        for event in events:
            if isinstance(event, ModelReplied):
                history.settle()
                history._compare(event.usage)
            if not (whole and isinstance(event, Compacted)):
                history.read(event)
        history.settle()
        return history

    def read(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._close_code()
                files = f"\n\nFiles in /workspace: {', '.join(event.files)}" if event.files else ""
                self.prompt = event.prompt or self.prompt
                self._hear(event.task + files)
            case ModelReplied(reply=reply) if reply.code is None:
                self._add(Entry(Message(role="assistant", text=reply.text), "reply"))
            case ModelReplied(reply=reply):
                self._add(Entry(self.format.render_reply(reply), "reply"))
                self.unanswered = reply
            case ExecutionFinished():
                self.result = event.result
            case Observed():
                self._observe(event.text, event.images)
            case Notice(to_model=True):
                self.notices.append(event.text)
            case Resumed():
                self.notices.append(f"[{event.text}]")
            case Compacted():
                self.settle()
                self._cut(event)
            case _:
                pass

    def settle(self) -> None:
        """The model is asked: no code may be left without an outcome and no notice untold."""
        self._close_code()
        if self.notices:
            text = "\n".join(self.notices)
            self.notices = []
            if self.entries and self.entries[-1].kind != "reply":
                self._extend(self.entries[-1], f"\n{text}")
            else:
                self._hear(text)

    def _compare(self, usage: Usage) -> None:
        size = self.size()
        if usage.prompt_tokens and not usage.estimated and size:
            self.counted = (usage.prompt_tokens, size)

    def _close_code(self) -> None:
        if self.unanswered is not None:
            self._observe(_NOT_RUN)

    def _observe(self, text: str, images: tuple[Image, ...] = ()) -> None:
        text = "\n".join([text, *self.notices])
        self.notices = []
        if self.unanswered is None:
            self._hear(text, images)
            return
        entry = Entry(self.format.render_observation(self.unanswered, text, images), "observation")
        remains = _remains(text, self.result)
        if len(text) > len(remains) or images:
            entry.elided = self.format.render_observation(self.unanswered, remains)
        self._add(entry)
        self.unanswered = self.result = None

    def _hear(self, text: str, images: tuple[Image, ...] = ()) -> None:
        """Words of the user. Two messages of theirs in a row are joined: many chat templates refuse them."""
        text = "\n\n".join([text, *self.notices])
        self.notices = []
        if self.entries and self.entries[-1].kind == "task":
            self._extend(self.entries[-1], f"\n\n{text}", images)
        else:
            self._add(Entry(Message(role="user", text=text, images=images), "task"))

    def _add(self, entry: Entry) -> None:
        entry.tokens = self.count(entry.message)
        if entry.elided:
            entry.saving = entry.tokens - self.count(entry.elided)
        self.entries.append(entry)
        self.tokens += entry.tokens
        self.images += len(entry.message.images)

    def _extend(self, entry: Entry, text: str, images: tuple[Image, ...] = ()) -> None:
        self.entries.pop()
        longer = {"text": entry.message.text + text, "images": entry.message.images + images}
        entry.message = entry.message.model_copy(update=longer)
        if entry.elided:
            entry.elided = entry.elided.model_copy(update={"text": entry.elided.text + text})
        self.tokens -= entry.tokens
        self.images -= len(entry.message.images) - len(images)
        self._add(entry)
        if self.cut is not WHOLE:  # it may be one that is cut
            self._cut(self.cut)

    def _cut(self, cut: Compacted) -> None:
        self.cut = cut
        shown = self._shown(cut)
        self.tokens = sum(self.count(message) for message in shown)
        self.images = sum(len(message.images) for message in shown)

    def size(self, cut: Compacted | None = None) -> int:
        """Our count of the prompt, as cut so far or as it would be with another cut."""
        if cut is None:
            tokens, images = self.tokens, self.images
        else:
            shown = self._shown(cut)
            tokens, images = sum(map(self.count, shown)), sum(len(message.images) for message in shown)
        return self.prompt_tokens() + tokens + IMAGE_TOKENS * min(self.max_images, images)

    def prompt_tokens(self) -> int:
        return self.count(Message(role="system", text=self.prompt)) if self.prompt else 0

    def lead(self, dropped: int) -> int:
        """The index of the user's message that entry ``dropped`` belongs to (or is)."""
        tasks = (i for i in range(min(dropped, len(self.entries) - 1), -1, -1) if self.entries[i].kind == "task")
        return next(tasks, dropped)

    def view(self, cut: Compacted | None = None) -> list[Message]:
        """The prompt, as cut so far or with another cut."""
        system = [Message(role="system", text=self.prompt)] if self.prompt else []
        return system + self._shown(self.cut if cut is None else cut)

    def _shown(self, cut: Compacted) -> list[Message]:
        if not self.entries:
            return []
        if cut is WHOLE:
            return [entry.message for entry in self.entries]
        first, limits, shown = self.lead(cut.dropped), dict(cut.shortened), []
        for index in [first] * (first < cut.dropped) + list(range(cut.dropped, len(self.entries))):
            entry = self.entries[index]
            message = entry.elided if index < cut.elided and entry.elided else entry.message
            if index in limits and message is entry.message:
                message = message.model_copy(update={"text": shorten(message.text, limits[index])})
            gone = cut.dropped - (first < cut.dropped)
            if index == first and gone > 0:
                parts = (message.text, _note(cut, gone)) if first < cut.dropped else (_note(cut, gone), message.text)
                message = message.model_copy(update={"text": "\n\n".join(parts)})
            shown.append(message)
        return shown


def _remains(text: str, result: ExecutionResult | None) -> str:
    """What stays of an observation whose output is left out: how it failed, what it changed, where the whole is."""
    lines = [f"[output of {len(text):,} characters left out here to fit the window]"]
    if result is not None and result.error is not None:
        error = f"{short(result.error.name, 60)}: {short(' '.join(plain(result.error.message[:500]).split()), 150)}"
        lines.append(f"[The code failed with {error}]")
    elif result is not None and result.status != "ok":
        lines.append(f"[The code did not end by itself: {result.status}]")
    if result is not None and result.changes is not None and (changes := changes_text(result.changes)):
        lines.append(f"[{changes}]")
    if result is not None and result.full_output:
        lines.append(f"[The whole output is in the file {short(result.full_output, 200)}]")
    return "\n".join(lines)


def _note(cut: Compacted, gone: int) -> str:
    """What stands in the place of the messages that are gone."""
    lines = [f"[{gone} earlier messages are left out here to fit the window.]"]
    if cut.summary:
        lines = [
            f"[{gone} earlier messages are left out here to fit the window. Notes on them, written by the model; they "
            f"tell what happened and instruct to nothing:]\n{cut.summary}\n[End of the notes.]"
        ]
    if cut.state:
        lines.append(f"[Live in the kernel when these messages were left out: {cut.state}]")
    return "\n".join(lines)


def last_images(view: Iterable[Message], most: int) -> tuple[Message, ...]:
    """The same messages with only their last images."""
    kept: list[Message] = []
    for message in reversed(list(view)):
        images = message.images[-most:] if most > 0 else ()
        most -= len(images)
        kept.append(message if images == message.images else message.model_copy(update={"images": images}))
    return tuple(kept[::-1])
