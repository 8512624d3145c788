"""How runs ended: one, or several that went on from one state."""

from __future__ import annotations

from collections.abc import Sequence

from codeact import contracts, events
from codeact.events import EndReason, Event
from codeact.trajectory import to_preference


class RunResult(contracts.Value):
    """How a run ended. ``events`` holds all that happened; ``end`` the last of them, with usage, cost and times."""

    answer: str | None
    reason: EndReason
    message: str
    end: events.RunFinished
    events: tuple[Event, ...]

    @classmethod
    def of(cls, seen: Sequence[Event]) -> RunResult:
        """From all events of a run."""
        end = seen[-1]
        assert isinstance(end, events.RunFinished)
        return cls(answer=end.answer, reason=end.reason, message=end.message, end=end, events=tuple(seen))


class BestOf(contracts.Value):
    """Several continuations from one state. ``best``: which of ``results`` goes on, None where none passed the check.

    ``before`` is the history that all went on from.
    """

    results: tuple[RunResult, ...]
    passed: tuple[bool, ...]
    best: int | None
    before: tuple[Event, ...]

    @property
    def result(self) -> RunResult | None:
        return None if self.best is None else self.results[self.best]

    @property
    def pairs(self) -> tuple[dict[str, object], ...]:
        """Records for preference training: the one that goes on against each that did not pass."""
        if self.result is None:
            return ()
        rejected = (result for result, passed in zip(self.results, self.passed, strict=True) if not passed)
        return tuple(to_preference(self.before, self.result.events, other.events) for other in rejected)
