"""What several families build their tasks of."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from codeact.evals.tables.family import Setting, rounded
from codeact.evals.tables.table import Column, deviation
from codeact.evals.task import NumberCheck

STATISTICS: Mapping[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "mean": ("mean", lambda numbers: math.fsum(numbers) / len(numbers)),
    "median": ("median", statistics.median),
    "sum": ("sum", math.fsum),
    "std": ("std", deviation),
    "high": ("max", max),
    "low": ("min", min),
}
"""A word of the lexicon, the method of pandas for it, and the same in plain Python."""

MIDDLE = ("mean", "median", "sum")


def quoted(text: str) -> str:
    """Text as a literal of Python."""
    return json.dumps(text)


def at(column: Column, frame: str = "df") -> str:
    return f"{frame}[{quoted(column.name)}]"


def measured(setting: Setting, value: float) -> tuple[NumberCheck, int | None]:
    """The check of a measured number and the decimals that the question asks for, None for as many as there are."""
    digits = setting.rng.choice((None, 1, 2, 2, 3))
    if digits is not None and abs(value) * 10**digits < 50:
        digits = None
    return NumberCheck(value=rounded(value), digits=digits), digits


def shown(expression: str, digits: int | None) -> str:
    """Code that prints a number."""
    return f"print(round({expression}, {digits}))" if digits else f"print({expression})"


def threshold(setting: Setting, column: Column) -> float | None:
    """A plain number within the column's range that no row holds, with rows on both sides."""
    numbers = sorted(set(column.numbers))
    for _ in range(20):
        value = setting.rng.choice(numbers[len(numbers) // 8 : -1 - len(numbers) // 8] or numbers)
        size = 10 ** math.floor(math.log10(abs(value))) if value else 1
        place = rounded(round(value / size * 4) / 4 * size)
        place = rounded(round(place, 4))
        if place not in numbers and numbers[0] < place < numbers[-1]:
            return place
    return None


def plain(value: float) -> str:
    """A number as a person writes it."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def listed(words: Sequence[str]) -> str:
    return ", ".join(words)
