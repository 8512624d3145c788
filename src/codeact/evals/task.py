"""A task with a known answer: plain, frozen values that turn into JSON and back.

What counts as right is said by ``checks``, all of which must pass; ``codeact.evals.judging`` applies them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, field_serializer, field_validator

from codeact.contracts import Value

Split: TypeAlias = Literal["train", "held-out-tables", "held-out-words", "held-out-families"]
SPLITS: tuple[Split, ...] = ("train", "held-out-tables", "held-out-words", "held-out-families")


class NumberCheck(Value):
    """The answer names this number. ``digits``: decimals that the task asks for; ``exact``: a count, not measured.

    Not exact: right is a correct rounding to at least three significant digits or to the digits asked for, or
    whatever is within a thousandth.
    """

    type: Literal["number"] = "number"
    value: float
    digits: int | None = None
    exact: bool = False


class NumbersCheck(Value):
    """The answer lists these numbers and no others; ``ordered``: in this order."""

    type: Literal["numbers"] = "numbers"
    values: tuple[float, ...]
    ordered: bool = False
    exact: bool = False


class LabelCheck(Value):
    """The answer names this one of ``choices``. ``aliases``: other ways to write a choice (``2021-03``: March 2021)."""

    type: Literal["label"] = "label"
    label: str
    choices: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class SetCheck(Value):
    """The answer names these of ``choices`` and no others; ``ordered``: in this order."""

    type: Literal["set"] = "set"
    labels: tuple[str, ...]
    choices: tuple[str, ...]
    ordered: bool = False


class MappingCheck(Value):
    """The answer gives each label its number, and names no other label of ``choices``."""

    type: Literal["mapping"] = "mapping"
    values: dict[str, float]
    choices: tuple[str, ...]
    exact: bool = False


class TextCheck(Value):
    """The answer says exactly this, case, quotes and space aside, and little else."""

    type: Literal["text"] = "text"
    text: str


class DateCheck(Value):
    """The answer names this day (ISO 8601), however it is written."""

    type: Literal["date"] = "date"
    date: str


class FrameCheck(Value):
    """A CSV file of the workspace holds this table: these columns, in any order, and rows; ``ordered``: in this order.

    Numbers may differ by a thousandth. An unnamed column of row numbers is overlooked.
    """

    type: Literal["frame"] = "frame"
    file: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    ordered: bool = False


class PictureCheck(Value):
    """A PNG file of the workspace: at least 200 by 150 pixels, with marks drawn where the data belongs."""

    type: Literal["picture"] = "picture"
    file: str


class FunctionCheck(Value):
    """A function of this name is live in the session; each call of ``calls`` (arguments, result) gives its result."""

    type: Literal["function"] = "function"
    name: str
    calls: tuple[tuple[tuple[JsonValue, ...], JsonValue], ...]


class VariableCheck(Value):
    """A variable of this name is live in the session: this number, text or list; ``rows``: a frame of that length."""

    type: Literal["variable"] = "variable"
    name: str
    value: JsonValue = None
    rows: int | None = None


AnswerCheck: TypeAlias = NumberCheck | NumbersCheck | LabelCheck | SetCheck | MappingCheck | TextCheck | DateCheck
WorkCheck: TypeAlias = FrameCheck | PictureCheck | FunctionCheck | VariableCheck
Check: TypeAlias = Annotated[AnswerCheck | WorkCheck, Field(discriminator="type")]
WORK = (FrameCheck, PictureCheck, FunctionCheck, VariableCheck)
"""The checks that look at the session; the others read the answer."""


class File(Value):
    """A file that the task comes with. In JSON its bytes are Latin-1 text, which holds every byte."""

    name: str
    data: bytes

    @field_serializer("data", when_used="json")
    def _written(self, data: bytes) -> str:
        return data.decode("latin-1")

    @field_validator("data", mode="before")
    @classmethod
    def _read(cls, data: object) -> object:
        return data.encode("latin-1") if isinstance(data, str) else data


class Task(Value):
    """``reference``: cells that solve it when they run one after the other; the last prints the outcome.

    ``reply`` is an answer in which ``{output}`` stands for what the last cell printed. ``table`` names the data,
    ``level`` is 1 (one step) to 3 (several steps, or data that is not as it looks).
    """

    id: str
    family: str
    level: Literal[1, 2, 3]
    split: Split
    seed: int
    table: str
    question: str
    files: tuple[File, ...]
    reference: tuple[str, ...]
    reply: str
    checks: tuple[Check, ...]
