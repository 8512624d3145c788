"""A table as the generator knows it: named columns of plain values, and its text as a CSV file."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Cell: TypeAlias = str | int | float | None
Kind: TypeAlias = Literal["number", "label", "id", "date", "text"]
"""``label``: one of a few words; ``id``: a name that no other row has; ``text``: what has to be cleaned first."""


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    values: tuple[Cell, ...]
    concept: str = ""
    """What it is about, where ``wording`` has words for that: ``price``, ``weight`` …"""

    @property
    def present(self) -> tuple[Cell, ...]:
        return tuple(value for value in self.values if value is not None)

    @property
    def whole(self) -> bool:
        """No value is missing."""
        return None not in self.values

    @property
    def numbers(self) -> list[float]:
        return [float(value) for value in self.values if isinstance(value, int | float)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels, sorted."""
        return tuple(sorted({value for value in self.values if isinstance(value, str)}))


@dataclass(frozen=True)
class Table:
    """``name`` is unique and says where it comes from: ``package/item`` or ``made/theme``."""

    name: str
    file: str
    columns: tuple[Column, ...]
    about: str = ""
    """What a row is, in the plural: ``orders``."""

    def __len__(self) -> int:
        return len(self.columns[0].values)

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def of(self, kind: Kind, *, whole: bool = True) -> list[Column]:
        """Columns of a kind; ``whole``: only those without a missing value."""
        return [column for column in self.columns if column.kind == kind and (column.whole or not whole)]

    @property
    def rows(self) -> Iterable[tuple[Cell, ...]]:
        return zip(*(column.values for column in self.columns), strict=True)

    def csv(self, separator: str = ",", decimal: str = ".") -> bytes:
        return csv_bytes([column.name for column in self.columns], self.rows, separator, decimal)


def csv_bytes(names: Sequence[str], rows: Iterable[Sequence[Cell]], separator: str = ",", decimal: str = ".") -> bytes:
    """The same bytes on every machine: numbers as Python writes them, UTF-8, lines end with ``\\n``."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_text(cell, decimal) for cell in row])
    return out.getvalue().encode()


def _text(cell: Cell, decimal: str) -> str:
    if cell is None:
        return ""
    return repr(cell).replace(".", decimal) if isinstance(cell, float) else str(cell)


# --- what the expected outcomes are computed with: plain Python, never the code of a reference solution -----------


def groups(by: Column, of: Column) -> dict[str, list[float]]:
    """The numbers of each label, missing ones left out."""
    found: dict[str, list[float]] = {}
    for label, value in zip(by.values, of.values, strict=True):
        if isinstance(label, str) and isinstance(value, int | float):
            found.setdefault(label, []).append(float(value))
    return found


def counts(values: Iterable[Cell]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        if isinstance(value, str):
            found[value] = found.get(value, 0) + 1
    return found


def quantile(numbers: Sequence[float], share: float) -> float:
    """With linear interpolation, as numpy and pandas do by default."""
    ordered = sorted(numbers)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def clear_extreme(values: dict[str, float], highest: bool, margin: float = 0.003) -> str | None:
    """The label with the extreme value, None where the next one is too near to tell them apart for certain."""
    if len(values) < 2:
        return None
    (first, a), (_, b) = sorted(values.items(), key=lambda item: item[1], reverse=highest)[:2]
    return first if abs(a - b) > margin * max(abs(a), abs(b), 1e-9) else None


def deviation(numbers: Sequence[float]) -> float:
    """Of the sample (n - 1)."""
    return statistics.stdev(numbers)
