"""How much goes when a prompt is too large: first outputs, then turns, then the middle of what is left."""

from __future__ import annotations

from itertools import accumulate

from codeact.context.history import History
from codeact.context.tokens import IMAGE_TOKENS, MESSAGE_TOKENS, estimate_tokens
from codeact.events import Compacted
from codeact.plaintext import shorten

_AIM = 0.4  # a step leaves this share of the room beside the system prompt
_AIM_ELIDED = 0.75  # enough where only outputs went: the beginning of the prompt then stays what it was
_RECENT = 0.25  # of that room: outputs this near the end are not left out before old turns are
_LEAST = 200  # characters of a message that always stay


class Cutter:
    """One step, for one prompt. ``room``: the tokens that it may have, by our count. ``elides``: whether outputs go
    before turns. ``expected``: tokens that the new notes will take, None where none will be asked for."""

    def __init__(self, history: History, room: float, *, elides: bool, expected: int | None) -> None:
        self.history = history
        self.room = room
        self.elides = elides
        self.expected = expected
        self.fixed = history.prompt_tokens()
        self.target = self.fixed + _AIM * (room - self.fixed)
        limits = dict(history.cut.shortened)
        entries = history.entries
        full = [self._kept(i, limits[i]) if i in limits else entry.tokens for i, entry in enumerate(entries)]
        self.full = [0, *accumulate(full)]
        self.blank = [0, *accumulate(entry.tokens - entry.saving for entry in entries)]
        self.images = [0, *accumulate(len(entry.message.images) for entry in entries)]
        tasks = (i if entry.kind == "task" else 0 for i, entry in enumerate(entries))
        self.leads = list(accumulate(tasks, max))  # for each entry the user's message that it serves
        self.last = len(entries) - 1
        if self.last > 0 and entries[self.last].kind == "observation":
            self.last -= 1  # the code that it answers

    def cut(self) -> Compacted:
        """All that is to be left out from now on. Where that is not enough, nothing more may go."""
        before, entries = self.history.cut, self.history.entries
        elided, dropped = before.elided, before.dropped
        if self.elides:
            recent = self.last
            while recent > 0 and self.full[-1] - self.full[recent] < _RECENT * (self.room - self.fixed):
                recent -= 1
            elided = self._elide(elided, dropped, recent)
            if self.size(elided, dropped) <= self.fixed + _AIM_ELIDED * (self.room - self.fixed):
                return before.model_copy(update={"elided": elided})
        while dropped < self.last and self.size(elided, dropped) > self.target:
            dropped += 1
            while dropped < self.last and entries[dropped].kind == "observation":
                dropped += 1
        if self.elides:
            elided = self._elide(elided, dropped, self.last)
        cut = before.model_copy(update={"elided": max(elided, before.elided), "dropped": dropped})
        return self._shorten(cut)

    def _elide(self, elided: int, dropped: int, end: int) -> int:
        while elided < end and self.size(elided, dropped) > self.target:
            elided += 1
        return elided

    def size(self, elided: int, dropped: int) -> int:
        """The tokens of the prompt so cut."""
        edge = max(elided, dropped)
        tokens = self.fixed + self.blank[edge] - self.blank[dropped] + self.full[-1] - self.full[edge]
        lead = self.leads[dropped] if self.history.entries else 0
        if lead < dropped:
            tokens += self.full[lead + 1] - self.full[lead]
        if dropped:
            tokens += self._note(new=dropped > self.history.cut.dropped)
        return tokens + IMAGE_TOKENS * min(self.history.max_images, self.images[-1] - self.images[edge])

    def _note(self, *, new: bool) -> int:
        """The tokens of what stands in the place of the turns that are gone."""
        cut = self.history.cut
        summary = self.expected if new and self.expected is not None else estimate_tokens(cut.summary)
        return 50 + summary + (estimate_tokens(cut.state) or 100)

    def _kept(self, index: int, characters: int) -> int:
        message = self.history.entries[index].message
        return self.history.count(message.model_copy(update={"text": shorten(message.text, characters)}))

    def _shorten(self, cut: Compacted) -> Compacted:
        """The last resort: cut the middle out of the longest messages."""
        entries, limits = self.history.entries, dict(cut.shortened)
        lead = self.leads[cut.dropped] if entries else 0
        kept = {i: self.full[i + 1] - self.full[i] for i in {lead, *range(cut.dropped, len(entries))}}
        for i in kept:
            if i < cut.elided and entries[i].elided is not None:
                kept[i] = 0  # nothing of it is left to be cut
        excess = self.size(cut.elided, cut.dropped) - self.room
        if excess > 0:
            excess += 0.25 * (self.room - self.target)  # so that the next turn has room too
        while excess > 0 and kept:
            longest = max(kept, key=lambda i: kept[i])
            tokens, text = kept.pop(longest), entries[longest].message.text
            least = estimate_tokens(text[:_LEAST]) + MESSAGE_TOKENS
            if tokens <= least + 20:
                break
            share = max(0.0, (tokens - excess - 40) / tokens)
            length = min(limits.get(longest, len(text)), len(text))
            limits[longest] = max(_LEAST, int(length * share))
            excess -= tokens - self._kept(longest, limits[longest])
        return cut.model_copy(update={"shortened": tuple(sorted(limits.items()))})
