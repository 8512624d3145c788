"""What a family of tasks is: a name, a level, and a function that makes one task of a table and a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from codeact.evals.tables import made
from codeact.evals.tables.table import Column, Table
from codeact.evals.tables.wording import Words
from codeact.evals.task import Check, File


@dataclass(frozen=True)
class Draft:
    """One task before it is put into words. ``nouns`` are noun phrases, ``asks`` whole sentences (see ``wording``).

    ``file`` is the file that the question names, empty where there is none or the sentences name it. ``ending`` is
    put behind the question: how the answer is to be given.
    """

    checks: tuple[Check, ...]
    reference: tuple[str, ...]
    reply: str
    asks: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    slots: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    file: str = ""
    ending: str = ""
    table: str = ""


@dataclass(frozen=True)
class Setting:
    """What a family makes its task of."""

    rng: random.Random
    words: Words
    table: Table
    themes: tuple[str, ...]
    """Themes of made tables that may be used."""

    def made(self, *, rows: tuple[int, int] = (30, 240)) -> Table:
        return made.make(self.rng.choice(self.themes), self.rng, rows)

    def label(self) -> Column:
        """A column of labels that can be answers. Raises LookupError where there is none."""
        return self.rng.choice([column for column in self.table.of("label") if clear(column)])

    def number(self, *besides: Column, distinct: int = 8) -> Column:
        """A column of numbers. Raises LookupError where there is none."""
        found = [c for c in self.table.of("number") if c not in besides and len(set(c.values)) >= distinct]
        return self.rng.choice(found)

    def say(self, column: Column) -> str:
        return self.words.column(column, self.table)


Build = Callable[[Setting], Draft | None]
"""Makes a draft, or None where the table does not lend itself; LookupError says the same."""


@dataclass(frozen=True)
class Family:
    name: str
    level: Literal[1, 2, 3]
    build: Build
    source: Literal["any", "made", "own", "none"] = "any"
    """Which tables it takes: real and made ones, made ones, small ones of its own, none."""


def clear(column: Column) -> bool:
    """Labels that stand out in a sentence."""
    short = {"a", "i", "an", "the", "no", "yes", "not", "or", "and", "in", "on", "is", "all", "any", "other", "none",
             "to", "at", "of", "as", "more", "less", "low", "high", "first", "last", "one", "two", "control"}  # fmt: skip
    folded = [label.lower() for label in column.labels]
    nested = any(a != b and f" {a} " in f" {b} " for a in folded for b in folded)
    return not nested and not any(label in short or len(label) < 2 for label in folded)


def loading(file: str, *, look: bool = True, arguments: str = "") -> str:
    """The first cell: read the file and look at it."""
    read = f'import pandas as pd\ndf = pd.read_csv("{file}"{arguments})'
    return read + ("\nprint(df.head(3))" if look else "")


def rounded(value: float) -> float:
    """An expected number with ten digits: the same on every machine."""
    return float(f"{value:.10g}")


def csv_file(table: Table) -> tuple[File, ...]:
    return (File(name=table.file, data=table.csv()),)
