"""What of a conversation fits the model's window, and what goes next where it does not.

Strategies, by name: ``none`` sends everything. ``truncate`` leaves out the oldest turns. ``elide`` first leaves out
the oldest outputs, whose code stays with a line on what it changed, then turns. ``summarize``, the default, does the
same but has the model write notes on the turns that go: what they found out would be lost otherwise, and one call in
some dozens of turns is cheap beside it. A function of your own gets the whole prompt and gives back what is to be sent.

Cuts are made in big steps, so that the beginning of the prompt stays the same for many turns and a server's prompt
cache keeps working.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from codeact.context.cutting import Cutter
from codeact.context.history import History, last_images
from codeact.context.summary import summary_request
from codeact.context.tokens import IMAGE_TOKENS, MESSAGE_TOKENS, counted_text, estimate_tokens
from codeact.contracts import ActionFormat, Message, ModelRequest, Variable
from codeact.errors import ContextOverflow, UsageError
from codeact.events import Compacted, Event
from codeact.observation import variables_text

Strategy: TypeAlias = Callable[[Sequence[Message], int, Callable[[Message], int]], Sequence[Message]]
"""``function(messages, room, count)``: the whole prompt, the tokens that it may have, and what counts those of a
message. It gives back the prompt to send, and is asked before each reply of the model once the window is known."""

STRATEGIES = ("none", "truncate", "elide", "summarize")
DEFAULT = "summarize"

_MARGIN, _EXACT_MARGIN = 1.15, 1.05  # for what is estimated, and where the server's tokenizer counted
_RECORD = 0.5  # of the room is what a request for notes may take, for no cache holds it …
_SMALL_RECORD = 4000  # … but always this many tokens of the room
_LEAST_NOTES = 128  # tokens that notes may always have
_STATE = 2000  # characters of the listing of live variables, at most


def check_strategy(strategy: str | Strategy) -> None:
    """Raises UsageError for a name that there is not."""
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise UsageError(f"unknown context strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")


@dataclass(frozen=True)
class Plan:
    """What is left out next. ``request``: what to ask the model so that it makes notes, where that is wanted."""

    cut: Compacted
    request: ModelRequest | None
    longest: int
    """Tokens of the notes."""
    loses_turns: bool
    state_limit: int

    def event(self, variables: Sequence[Variable], summary: str | None = None, **fields: object) -> Compacted:
        """The event to record. Without new notes the earlier ones stay."""
        update: dict[str, object] = dict(fields)
        if summary is not None:
            update["summary"] = summary
        if self.loses_turns:
            update["state"] = variables_text(variables, self.state_limit) or "no variables"
        return self.cut.model_copy(update=update)


class Context:
    """Makes messages for one model. ``context_window`` and ``reserve`` (room for the reply) are in tokens.

    ``messages`` are what the events say; ``plan`` says what must go before they fit, and whoever asks records that as
    an event. ``context_window`` None: nothing is cut until a refusal tells (``shrink``). Tokens are estimated,
    corrected by the ``usage`` of each reply, unless ``learn`` is told what the server counts for the texts of
    ``uncounted``. ``max_images``: how many of the latest images are sent; 0 for a model that takes none.
    """

    def __init__(
        self,
        format: ActionFormat,
        context_window: int | None,
        *,
        strategy: str | Strategy = DEFAULT,
        reserve: int = 1024,
        max_images: int = 4,
    ) -> None:
        check_strategy(strategy)
        self.format = format
        self.context_window = context_window
        self.strategy = strategy
        self.reserve = reserve
        self.max_images = max_images
        self._least_ratio = 0.0
        self._sent = 0  # our count of what ``messages`` returned last
        self._known: dict[str, int] = {}  # texts of the history read last
        self._before: dict[str, int] = {}  # of the one before it
        self._exact: dict[str, int] = {}
        self._read: tuple[int, Event | None, History] | None = None

    # --- what is sent ---

    def messages(self, events: Sequence[Event]) -> tuple[Message, ...]:
        """The messages to send next, after all of ``events``."""
        history = self._history(events)
        view = last_images(history.view(), self.max_images)
        room = self._room(history)
        if callable(self.strategy) and room is not None:
            view = tuple(self.strategy(view, int(room), self.count))
            if not view or not all(isinstance(message, Message) for message in view):
                raise UsageError("the context function must give back messages, and at least one")
        self._sent = sum(self.count(m) + IMAGE_TOKENS * len(m.images) for m in view)
        return view

    def count(self, message: Message) -> int:
        """The tokens of a message, its images aside: the server's count where it is known, else an estimate."""
        return self._count(counted_text(message)) + MESSAGE_TOKENS

    def _count(self, text: str) -> int:
        tokens = self._known.get(text)
        if tokens is None:
            tokens = self._exact.get(text) or self._before.get(text) or estimate_tokens(text)
            self._known[text] = tokens
        return tokens

    def uncounted(self, events: Sequence[Event]) -> list[str]:
        """The texts of the prompt that only an estimate is known of. None while the window is less than half full."""
        history = self._history(events)
        room = self._room(history)
        if room is None or history.size() < room / 2:
            return []
        texts = dict.fromkeys(map(counted_text, history.view()))
        return [text for text in texts if text not in self._exact]

    def learn(self, counts: Mapping[str, int]) -> None:
        """Take over what the server's tokenizer counts."""
        used = {**self._before, **self._known}
        self._exact = {text: count for text, count in self._exact.items() if text in used} | dict(counts)
        self._known, self._before, self._read = {}, {}, None

    def shrink(self, error: ContextOverflow) -> bool:
        """Learn from a refusal, so that less is sent than was refused. False where nothing may be left out."""
        if self.strategy == "none":
            return False
        if error.context_window:
            self.context_window = min(error.context_window, self.context_window or error.context_window)
        if error.prompt_tokens and self._sent:
            self._least_ratio = max(self._least_ratio, min(8.0, error.prompt_tokens / self._sent))
        history = self._read[2] if self._read else None
        room = self._room(history)
        if room is None or room >= self._sent:  # the server told too little: take a quarter off what it refused
            refused = self._sent * max(self._ratio(history), self._least_ratio)
            self.context_window = max(64, int(0.75 * refused))
        return True

    # --- what goes next ---

    def plan(self, events: Sequence[Event], *, temperature: float | None = None) -> Plan | None:
        """What must be left out before the prompt fits, None where it does or the strategy leaves nothing out.

        Raises ContextOverflow where not even the system prompt fits.
        """
        history = self._history(events)
        room = self._room(history)
        if room is None or self.context_window is None:
            return None
        reserve = min(self.reserve, self.context_window // 4)
        prompt = history.prompt_tokens()
        told = round(prompt * max(self._ratio(history), self._least_ratio))
        if told + reserve >= self.context_window:
            raise ContextOverflow(
                f"the system prompt of about {told} tokens leaves no room in the model's window of "
                f"{self.context_window}: take a model with a larger one, or correct it with --context-window",
                context_window=self.context_window,
            )
        size = history.size()
        if size <= room or not isinstance(self.strategy, str) or self.strategy == "none":
            return None
        longest = max(_LEAST_NOTES, min(reserve, int(room) // 6))
        summarizes = self.strategy == "summarize"
        expected = longest // 2 if summarizes else None
        cut = Cutter(history, room, elides=self.strategy != "truncate", expected=expected).cut()
        if all(getattr(cut, name) == getattr(history.cut, name) for name in ("elided", "dropped", "shortened")):
            return None  # there is nothing left that may go: the server decides
        first = history.cut.dropped
        request = None
        if summarizes and cut.dropped > first:
            lead = history.lead(first)
            old = [*history.entries[lead : lead + (lead < first)], *history.entries[first : cut.dropped]]
            notes = history.cut.summary
            record = min(room, max(_RECORD * room, _SMALL_RECORD))
            request = summary_request(
                old, notes, room=record, longest=longest, count=self._count, temperature=temperature
            )
        return Plan(cut, request, longest, cut.dropped > first, min(_STATE, int(room) // 4))

    # --- counting ---

    def _history(self, events: Sequence[Event]) -> History:
        """The events read, those of the last call from memory."""
        last = events[-1] if events else None
        if self._read is not None and self._read[0] == len(events) and self._read[1] is last:
            return self._read[2]
        self._before, self._known = self._known, {}
        whole = callable(self.strategy) or self.strategy == "none"
        history = History.of(events, self.format, max_images=self.max_images, count=self.count, whole=whole)
        self._read = (len(events), last, history)
        return history

    def _ratio(self, history: History | None) -> float:
        """By how much the server counts more than we do."""
        if history is None or history.counted is None:
            return 1.0
        theirs, ours = history.counted
        return min(4.0, max(0.5, theirs / ours))

    def _room(self, history: History | None) -> float | None:
        """What our count of a prompt may reach, None for no limit."""
        if self.context_window is None:
            return None
        reserve = min(self.reserve, self.context_window // 4)
        margin = _MARGIN
        if self._exact and history and all(counted_text(message) in self._exact for message in history.view()):
            margin = _EXACT_MARGIN
        return (self.context_window - reserve) / (margin * max(self._ratio(history), self._least_ratio))
