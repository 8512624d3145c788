"""What a run may use, and what it has used so far."""

from __future__ import annotations

import time

from codeact.contracts import Usage, Value
from codeact.events import EndReason, RunFinished


class Budget(Value):
    """What one run may use; None is no limit. ``seconds`` of wall time, ``cost`` in US dollars (known prices only)."""

    turns: int | None = 20
    executions: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None


class Meter:
    """Counts what a run uses. ``prices``: US dollars per million prompt and completion tokens, where known."""

    def __init__(self, budget: Budget, prices: tuple[float, float] | None) -> None:
        self.budget = budget
        self.prices = prices
        self.started = time.monotonic()
        self.turns = 0
        self.executions = 0
        self.usage = Usage()
        self.model_time = 0.0
        self.code_time = 0.0
        self.waited = 0.0
        """Seconds in which the code waited for a person: they count for no budget."""

    @property
    def seconds_left(self) -> float | None:
        """Wall time that is left, at least 0; None without a limit."""
        if self.budget.seconds is None:
            return None
        return max(0.0, self.budget.seconds + self.waited - (time.monotonic() - self.started))

    @property
    def cost(self) -> float | None:
        if self.prices is None:
            return None
        return (self.usage.prompt_tokens * self.prices[0] + self.usage.completion_tokens * self.prices[1]) / 1e6

    def over(self) -> RunFinished | None:
        """The end of the run where no further turn is allowed, else None."""
        budget, cost = self.budget, self.cost
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        if budget.turns is not None and self.turns >= budget.turns:
            return self.end("turns", message=f"no answer after {self.turns} turns; allow more with --max-turns")
        if budget.tokens is not None and tokens >= budget.tokens:
            return self.end("tokens", message=f"no answer after {tokens} tokens; {budget.tokens} were allowed")
        if budget.cost is not None and cost is not None and cost >= budget.cost:
            return self.end("cost", message=f"no answer after {cost:.4f} US dollars; {budget.cost} were allowed")
        if self.seconds_left == 0:
            return self.end("time", message=f"no answer after {budget.seconds:g} seconds")
        return None

    def over_executions(self) -> RunFinished | None:
        """The end of the run where no further execution is allowed, else None. A reply without code needs none."""
        if self.budget.executions is not None and self.executions >= self.budget.executions:
            return self.end("executions", message=f"no answer after {self.executions} executions")
        return None

    def cancelled(self) -> RunFinished:
        return self.end("cancelled", message="the run was cancelled")

    def end(self, reason: EndReason, *, answer: str | None = None, message: str = "") -> RunFinished:
        return RunFinished(
            reason=reason,
            answer=answer,
            message=message,
            turns=self.turns,
            executions=self.executions,
            usage=self.usage,
            cost=self.cost,
            duration=time.monotonic() - self.started,
            model_time=self.model_time,
            code_time=self.code_time,
        )
