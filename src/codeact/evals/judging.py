"""Is a task solved? The answer is read, and where the task asks for work, the session is looked at."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

from codeact.contracts import Sandbox, Session, Value
from codeact.errors import FileTransferError
from codeact.evals import look
from codeact.evals.answers import judge_answer
from codeact.evals.task import (
    WORK,
    FrameCheck,
    FunctionCheck,
    PictureCheck,
    Task,
    VariableCheck,
    WorkCheck,
)

LIMIT = 20.0
"""Seconds that looking may take."""

MAX_FILE = 20 << 20
SMALLEST = (200, 150)
"""Pixels of a picture that counts."""


class Verdict(Value):
    """``why`` says in one sentence what is wrong; empty where the task is solved."""

    solved: bool
    why: str = ""


async def judge(task: Task, answer: str | None, session: Session, sandbox: Sandbox) -> Verdict:
    """Judge a finished run. ``session`` is the one that it worked in, ``sandbox`` makes fresh ones to look at files in.

    Code of the run may have changed what its session says of itself: a model that is out to cheat can. Files are looked
    at elsewhere. Raises SandboxError where a sandbox fails.
    """
    if answer is None:
        return Verdict(solved=False, why="there is no answer")
    for check in task.checks:
        if isinstance(check, WORK):
            why = await _work(check, session, sandbox)
        else:
            why = judge_answer(check, answer, task.question)
        if why is not None:
            return Verdict(solved=False, why=why)
    return Verdict(solved=True)


async def _work(check: WorkCheck, session: Session, sandbox: Sandbox) -> str | None:
    match check:
        case FrameCheck():
            data = await _fetched(session, check.file)
            return data if isinstance(data, str) else judge_frame(check, data)
        case PictureCheck():
            data = await _fetched(session, check.file)
            return data if isinstance(data, str) else await _picture(data, sandbox)
        case FunctionCheck(name=name):
            arguments = json.dumps([call for call, _ in check.calls])
            found = await _look(session, f"calls({name}, json.loads({arguments!r}))")
            return f"there is no function {name}" if found is None else _results(check, found)
        case VariableCheck(name=name):
            found = await _look(session, f"variable({name})")
            if not isinstance(found, dict):
                return f"there is no variable {name}"
            if check.rows is not None:
                return None if found.get("rows") == check.rows else f"{name} does not have {check.rows} rows"
            return None if same(found.get("value"), check.value) else f"{name} is not {check.value!r}"
        case _:
            assert_never(check)


async def _fetched(session: Session, file: str) -> bytes | str:
    """The file's bytes, or why not."""
    try:
        data = await session.get(file)
    except FileTransferError:
        return f"there is no file {file}"
    return data if len(data) <= MAX_FILE else f"{file} is far too large"


async def _look(session: Session, expression: str) -> Any:
    """What a function of ``look`` says in a session, None where it fails."""
    mark = secrets.token_hex(8)
    code = f"{_source()}\nsay({mark!r}, {expression})"
    result = await session.run(code, timeout=LIMIT)
    for line in result.stdout.splitlines():
        if line.startswith(mark):
            try:
                return json.loads(line.removeprefix(mark))
            except ValueError:
                return None
    return None


@functools.cache
def _source() -> str:
    return Path(look.__file__).read_text()


async def _picture(data: bytes, sandbox: Sandbox) -> str | None:
    session = await sandbox.session()
    try:
        await session.put("picture.png", data)
        found = await _look(session, "picture('picture.png')")
    finally:
        await session.close()
    if not isinstance(found, dict):
        return "the picture cannot be read as PNG"
    if found["width"] < SMALLEST[0] or found["height"] < SMALLEST[1]:
        return f"the picture is too small: {found['width']} × {found['height']} pixels"
    if found["marks"] < max(30, 0.0004 * found["inside"]):
        return "the picture shows no data"
    return None


def _results(check: FunctionCheck, found: Any) -> str | None:
    for (arguments, wanted), got in zip(check.calls, found, strict=True):
        if got[0] != "value" or not same(got[1], wanted):
            said = f"raises {got[1]}" if got[0] == "error" else f"gives {got[1]!r}"
            return f"{check.name}{tuple(arguments)!r} {said}, not {wanted!r}"[:300]
    return None


def same(one: Any, two: Any) -> bool:
    """Equal JSON values, numbers to nine digits."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, int | float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(one, list) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


# --- tables -------------------------------------------------------------------------------------------------------


def judge_frame(check: FrameCheck, data: bytes) -> str | None:
    """None where the file's text is this table, else one sentence on why not."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return f"{check.file} is not CSV"
    rows = [row for row in rows if row]
    if not rows:
        return f"{check.file} is empty"
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if any(len(row) != len(header) for row in body):
        return f"{check.file} has rows of different lengths"
    wanted = list(check.columns)
    names = [name.lower() for name in header]
    if names[0] in ("", "unnamed: 0") and len(names) == len(wanted) + 1:
        header, names, body = header[1:], names[1:], [row[1:] for row in body]
    if sorted(names) != sorted(name.strip().lower() for name in wanted):
        return f"{check.file} has the columns {', '.join(header)[:200]}, not {', '.join(wanted)}"
    if len(body) != len(check.rows):
        return f"{check.file} has {len(body)} rows, not {len(check.rows)}"
    places = [names.index(name.strip().lower()) for name in wanted]
    got = [[row[place].strip() for place in places] for row in body]
    expected: Sequence[Sequence[str | float | None]] = check.rows
    if not check.ordered:
        got.sort(key=_key)
        expected = sorted(expected, key=_key)
    for number, (row, other) in enumerate(zip(got, expected, strict=True), start=1):
        for cell, value, name in zip(row, other, wanted, strict=True):
            if not _cell(cell, value):
                return f"{check.file}: {name} is {cell[:60]!r} in row {number}, not {value!r}"
    return None


def _key(row: Sequence[str | float | None]) -> tuple[str, ...]:
    """Texts first, so that rounding does not change the order; numbers to three digits after them."""
    texts = [str(cell).lower() for cell in row if _number(cell) is None]
    return (*texts, *(f"{_number(cell):030.2f}" for cell in row if _number(cell) is not None))


def _number(cell: str | float | None) -> float | None:
    try:
        return None if cell is None or cell == "" else float(cell)
    except ValueError:
        return None


def _cell(cell: str, value: str | float | None) -> bool:
    if value is None:
        return cell == "" or cell.lower() in ("nan", "na", "none")
    if isinstance(value, str):
        return cell == value
    number = _number(cell)
    return number is not None and math.isclose(number, value, rel_tol=1e-3, abs_tol=6e-3 if abs(value) > 1 else 1e-4)
