"""Evaluations for the command line: which model, which tasks, what is shown, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import Model, Sandbox
from codeact.errors import UsageError
from codeact.evals.record import Record, load
from codeact.evals.report import report
from codeact.evals.sample import Sample
from codeact.evals.speakers import ReferenceModel, replayed
from codeact.evals.suite import Suite
from codeact.evals.tables import tasks
from codeact.evals.task import SPLITS, Split, Task
from codeact.interrupts import Interrupts
from codeact.plaintext import short
from codeact.running import check_names, model_of, sandbox_of, say, starting, warn_of
from codeact.settings import Settings

HELD_OUT: tuple[Split, ...] = SPLITS[1:]


@dataclass(frozen=True)
class Choice:
    """Which tasks, how many at a time, and where the record goes. ``split`` None: the three that are held out.

    ``replay`` is a record whose replies are said again, in the place of a model.
    """

    limit: int = 60
    split: Split | None = None
    families: tuple[str, ...] = ()
    level: int | None = None
    seed: int = 0
    parallel: int = 2
    out: Path | None = None
    replay: Path | None = None

    def tasks(self) -> list[Task]:
        """The tasks, ``limit`` of them over all splits. Raises UsageError where there are none."""
        splits = (self.split,) if self.split else HELD_OUT
        share, rest = divmod(self.limit, len(splits))
        found: list[Task] = []
        for place, split in enumerate(splits):
            count = share + (place < rest)
            try:
                found += tasks(split, self.seed, count, only=self.families, level=self.level)
            except UsageError:
                if self.split or not self.families:  # of several splits, some may lack a family
                    raise
        if not found:
            raise UsageError(f"no such tasks: there is no family {', '.join(self.families)} in these splits")
        return found


@contextlib.asynccontextmanager
async def _speaker(settings: Settings, choice: Choice) -> AsyncIterator[tuple[str, Callable[[Task], Model]]]:
    """Who speaks: a name for the record, and the model for each task."""
    if choice.replay is not None:
        samples, _ = load(choice.replay)
        names = {sample.model for sample in samples.values()}
        if len(names) != 1:
            raise UsageError(f"{choice.replay} holds the attempts of {len(names)} models: record one a file")
        yield names.pop(), lambda task: replayed(task, samples)
    elif settings.model == "reference":
        yield "reference", ReferenceModel
    else:
        async with model_of(settings) as model:
            yield model.name, lambda task: model


async def tables(settings: Settings, choice: Choice) -> int:
    """Evaluate on the tables' tasks; the report goes to stdout, everything else to stderr. The exit status."""
    check_names(settings)
    chosen = await asyncio.to_thread(choice.tasks)
    budget = Budget(
        turns=settings.max_turns,
        tokens=settings.max_tokens_total,
        seconds=settings.max_seconds,
        cost=settings.max_cost,
    )
    with Interrupts() as interrupts, contextlib.ExitStack() as stack:
        try:
            async with _speaker(settings, choice) as (name, model_for), sandbox_of(settings) as sandbox:
                record = stack.enter_context(Record(choice.out, name)) if choice.out else None
                warn_of(sandbox)
                suite = Suite(chosen, _agents(settings, model_for, sandbox, budget), record, _progress)
                say(f"model: {short(name, 200)} · {len(chosen)} tasks · code runs in: {sandbox.name}", "dim")
                interrupts.stop = lambda: _stop(suite)
                with starting():
                    await (await sandbox.session()).close()
                try:
                    await suite.run(choice.parallel)
                finally:
                    sys.stdout.write(report(suite.samples.values()) + "\n")
                    sys.stdout.flush()
        except asyncio.CancelledError:
            if not interrupts.signals:
                raise
            return interrupts.status
    return interrupts.status or _ended(suite, choice)


def _stop(suite: Suite) -> None:
    say("\nstopping … (once more to force it)", "yellow")
    suite.stop()


def _ended(suite: Suite, choice: Choice) -> int:
    for task, why in list(suite.broken.items())[:3]:
        say(f"error: {task}: {short(why, 300)}", "red")
    if suite.broken:
        say(
            f"{len(suite.broken)} attempts were broken off and are not counted: the same command tries them again",
            "red",
        )
        return 4
    if choice.out is not None:
        say(f"recorded in {choice.out}", "dim")
    return 0


def _agents(
    settings: Settings, model_for: Callable[[Task], Model], sandbox: Sandbox, budget: Budget
) -> Callable[[Task], Agent]:
    def agent_for(task: Task) -> Agent:
        return Agent(model_for(task), sandbox=sandbox, format=settings.format, budget=budget, temperature=0.0)

    return agent_for


def _progress(sample: Sample, done: int, of: int) -> None:
    verdict = "solved" if sample.solved else f"not solved: {short(sample.why, 100)}"
    line = f"{done}/{of}  {sample.task}  {sample.family}  {sample.seconds:.1f} s  {verdict}"
    say(line, "" if sample.solved else "yellow")
