"""From the events of a conversation to the messages that a model is sent, cut to fit its window.

A fold over the events: the same events give the same messages. Cuts are made in big steps, down to ``_AIM`` of the room
there is, so that the beginning of the prompt stays the same for many turns and a server's prefix cache keeps working.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from codeact.contracts import ActionFormat, Image, Message, Reply
from codeact.errors import ContextOverflow
from codeact.events import Event, ModelReplied, Notice, Observed, Resumed, RunStarted
from codeact.plaintext import shorten

_AIM = 0.6
_MARGIN = 1.15
_IMAGE_TOKENS = 1000
_MESSAGE_TOKENS = 5  # the chat template's own, for each message
_PIECES = re.compile(r"[A-Za-z]{1,7}|[0-9]{1,3}| {2,}|\n+")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_NOT_RUN = "[This code was not run: the run ended before it.]"


def estimate_tokens(text: str) -> int:
    """A guess at how many tokens a model's tokenizer makes of ``text``, without having it.

    Every word counts a token for each 7 letters begun, every number one for each 3 digits begun, every punctuation mark
    three quarters, every run of spaces or line ends one, and every character outside ASCII one. ``Context`` corrects
    it by what the server counted.
    """
    other = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    return round(len(_PIECES.findall(text)) + 0.75 * len(_PUNCTUATION.findall(text))) + other


class Context:
    """Makes messages for one model. ``context_window`` and ``reserve`` (room for the reply) are in tokens.

    ``context_window`` None: never cut. ``max_images``: how many of the latest images are sent; 0 for a model that takes
    none. The estimate is corrected by the ``usage`` of each reply among the events, so the same events give the same
    messages until ``shrink`` is called. Where even system prompt, task and last turn do not fit, the longest of them is
    cut in its middle, but never the system prompt: one that alone is too long is left to the server to refuse.
    """

    def __init__(
        self, format: ActionFormat, context_window: int | None, *, reserve: int = 1024, max_images: int = 4
    ) -> None:
        self.format = format
        self.context_window = context_window
        self.reserve = reserve
        self.max_images = max_images
        self._least_ratio = 0.0
        self._ratio = 1.0
        self._sent = 0  # the estimate of what ``messages`` returned last
        self._known: dict[str, int] = {}

    def messages(self, events: Iterable[Event]) -> tuple[Message, ...]:
        """The messages to send next, after all of ``events``."""
        known: dict[str, int] = {}  # only this call's texts are remembered for the next

        def count(text: str) -> int:
            tokens = known.get(text) or self._known.get(text) or estimate_tokens(text) + _MESSAGE_TOKENS
            known[text] = tokens
            return tokens

        fold, cut, ratio = _Fold(self.format, count), _Cut(), 1.0
        for event in events:
            if isinstance(event, ModelReplied):
                fold.settle()
                size = self._fit(fold, cut, ratio)
                if event.usage.prompt_tokens and not event.usage.estimated and size:
                    ratio = min(4.0, max(0.5, event.usage.prompt_tokens / size))
            fold.read(event)
        fold.settle()
        self._fit(fold, cut, ratio)
        view = _last_images(fold.view(cut), self.max_images)
        room = self._room(ratio)
        if room is not None:
            view = _squeeze(view, room, count)
        self._known = known
        self._sent = sum(_tokens(message, count) for message in view)
        self._ratio = ratio
        return tuple(view)

    def shrink(self, error: ContextOverflow) -> None:
        """Learn from a refusal: the next ``messages`` will be smaller than those refused."""
        if error.context_window:
            self.context_window = min(error.context_window, self.context_window or error.context_window)
        if error.prompt_tokens and self._sent:
            self._least_ratio = max(self._least_ratio, min(8.0, error.prompt_tokens / self._sent))
        room = self._room(self._ratio)
        if room is None or room >= self._sent:  # the server told too little: take a quarter off what it refused
            refused = self._sent * max(self._ratio, self._least_ratio)
            self.context_window = max(64, int(0.75 * refused))

    def _fit(self, fold: _Fold, cut: _Cut, ratio: float) -> int:
        """Advance the cut where the prompt is too large for the room there is; the estimate of the prompt."""
        images = _IMAGE_TOKENS * min(self.max_images, fold.images)
        size = fold.size(cut) + images
        room = self._room(ratio)
        if room is not None and size > room:
            fold.cut_down(cut, _AIM * room - images)
            size = fold.size(cut) + images
        return size

    def _room(self, ratio: float) -> float | None:
        """What the estimate of a prompt may reach, or None for no limit."""
        if self.context_window is None:
            return None
        reserve = min(self.reserve, self.context_window // 4)
        return (self.context_window - reserve) / (_MARGIN * max(ratio, self._least_ratio))


def messages(
    events: Iterable[Event], *, format: ActionFormat, context_window: int | None = None, max_images: int = 4
) -> tuple[Message, ...]:
    """The messages that a model is sent after ``events``: system, user, assistant and observation messages."""
    return Context(format, context_window, max_images=max_images).messages(events)


@dataclass(slots=True)
class _Entry:
    """A message, what it is, and its twin without the output, to be sent where there is no room for it."""

    message: Message
    kind: Literal["task", "reply", "observation"]
    elided: Message | None = None
    tokens: int = 0
    saving: int = 0


@dataclass(slots=True)
class _Cut:
    """Observations before entry ``elided`` are blank; entries before ``dropped`` are gone, but for the task they serve.

    ``saved`` is how many tokens less that makes.
    """

    elided: int = 0
    dropped: int = 0
    saved: int = 0


@dataclass(slots=True)
class _Fold:
    """The conversation as far as it is read."""

    format: ActionFormat
    count: Callable[[str], int]
    prompt: str = ""
    entries: list[_Entry] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unanswered: Reply | None = None  # its code has no outcome yet
    tokens: int = 0
    images: int = 0

    def read(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._close_code()
                files = f"\n\nFiles in /workspace: {', '.join(event.files)}" if event.files else ""
                self.prompt = event.prompt or self.prompt
                self._hear(event.task + files)
            case ModelReplied(reply=reply) if reply.code is None:
                self._add(_Entry(Message(role="assistant", text=reply.text), "reply"))
            case ModelReplied(reply=reply):
                self._add(_Entry(self.format.render_reply(reply), "reply"))
                self.unanswered = reply
            case Observed():
                self._observe(event.text, event.images)
            case Notice(to_model=True):
                self.notices.append(event.text)
            case Resumed():
                self.notices.append(f"[{event.text}]")
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

    def _close_code(self) -> None:
        if self.unanswered is not None:
            self._observe(_NOT_RUN)

    def _observe(self, text: str, images: tuple[Image, ...] = ()) -> None:
        text = "\n".join([text, *self.notices])
        self.notices = []
        if self.unanswered is None:
            self._hear(text, images)
            return
        entry = _Entry(self.format.render_observation(self.unanswered, text, images), "observation")
        short = f"[output of {len(text):,} characters left out here to fit the window]"
        if len(text) > len(short) or images:
            entry.elided = self.format.render_observation(self.unanswered, short)
        self._add(entry)
        self.unanswered = None

    def _hear(self, text: str, images: tuple[Image, ...] = ()) -> None:
        """Words of the user. Two messages of theirs in a row are joined: many chat templates refuse them."""
        text = "\n\n".join([text, *self.notices])
        self.notices = []
        if self.entries and self.entries[-1].kind == "task":
            self._extend(self.entries[-1], f"\n\n{text}", images)
        else:
            self._add(_Entry(Message(role="user", text=text, images=images), "task"))

    def _add(self, entry: _Entry) -> None:
        entry.tokens = self.count(entry.message.text)
        if entry.elided:
            entry.saving = entry.tokens - self.count(entry.elided.text)
        self.tokens += entry.tokens
        self.images += len(entry.message.images)
        self.entries.append(entry)

    def _extend(self, entry: _Entry, text: str, images: tuple[Image, ...] = ()) -> None:
        self.entries.pop()
        self.tokens -= entry.tokens
        self.images -= len(entry.message.images)
        longer = {"text": entry.message.text + text, "images": entry.message.images + images}
        entry.message = entry.message.model_copy(update=longer)
        if entry.elided:
            entry.elided = entry.elided.model_copy(update={"text": entry.elided.text + text})
        self._add(entry)

    def size(self, cut: _Cut) -> int:
        """The estimate of the view, without images."""
        return (self.count(self.prompt) if self.prompt else 0) + self.tokens - cut.saved

    def cut_down(self, cut: _Cut, target: float) -> None:
        """Leave out the oldest observations, then the oldest turns, until the target is met or only the last stays."""
        last = len(self.entries) - 1
        if last > 0 and self.entries[last].kind == "observation":
            last -= 1  # the code that it answers
        while cut.elided < last and self.size(cut) > target:
            cut.saved += self.entries[cut.elided].saving
            cut.elided += 1
        while cut.dropped < last and self.size(cut) > target:
            cut.dropped += 1
            while cut.dropped < last and self.entries[cut.dropped].kind == "observation":
                cut.dropped += 1
            gone = set(range(cut.dropped)) - {self._task(cut)}
            blank = sum(self.entries[i].saving for i in range(cut.elided) if i not in gone)
            cut.saved = blank + sum(self.entries[i].tokens for i in gone)

    def _task(self, cut: _Cut) -> int:
        """The index of the user's message that the first kept entry belongs to (or is)."""
        tasks = (i for i in range(cut.dropped, -1, -1) if self.entries[i].kind == "task")
        return next(tasks, cut.dropped)

    def view(self, cut: _Cut) -> list[Message]:
        """The messages as cut."""
        view = [Message(role="system", text=self.prompt)] if self.prompt else []
        first = self._task(cut) if self.entries else 0
        for index in [first] * (first < cut.dropped) + list(range(cut.dropped, len(self.entries))):
            entry = self.entries[index]
            message = entry.elided if index < cut.elided and entry.elided else entry.message
            gone = cut.dropped - (first < cut.dropped)
            if index == first and gone:
                note = f"\n\n[{gone} earlier messages are left out here to fit the window]"
                message = message.model_copy(update={"text": message.text + note})
            view.append(message)
        return view


def _tokens(message: Message, count: Callable[[str], int]) -> int:
    return count(message.text) + _IMAGE_TOKENS * len(message.images)


def _last_images(view: list[Message], most: int) -> list[Message]:
    kept: list[Message] = []
    for message in reversed(view):
        images = message.images[-most:] if most > 0 else ()
        most -= len(images)
        kept.append(message if images == message.images else message.model_copy(update={"images": images}))
    return kept[::-1]


def _squeeze(view: list[Message], room: float, count: Callable[[str], int]) -> list[Message]:
    """The last resort: cut the middle out of the longest messages."""
    view = list(view)
    for _ in range(len(view)):
        excess = sum(_tokens(message, count) for message in view) - room
        candidates = [i for i, message in enumerate(view) if message.role != "system"]
        if excess <= 0 or not candidates:
            break
        longest = max(candidates, key=lambda i: count(view[i].text))
        text, tokens = view[longest].text, count(view[longest].text)
        kept = max(0.0, (tokens - excess - 40) / tokens)
        view[longest] = view[longest].model_copy(update={"text": shorten(text, max(200, int(len(text) * kept)))})
    return view
