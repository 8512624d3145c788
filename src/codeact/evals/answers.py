"""Is the outcome in what the agent said? Text in, verdict out: prose, units, separators, lists and tables are read.

An answer has to commit itself: one that names several candidates for one thing, or everything there is, is wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar, assert_never

from codeact.evals.task import (
    AnswerCheck,
    DateCheck,
    LabelCheck,
    MappingCheck,
    NumberCheck,
    NumbersCheck,
    SetCheck,
    TextCheck,
)

BESIDES = 3
"""How many other numbers an answer may name besides the one asked for, those of the question left out."""

T = TypeVar("T")


def judge_answer(check: AnswerCheck, answer: str, question: str) -> str | None:
    """None where the answer is right, else one sentence on why not."""
    text = _plain(answer)
    match check:
        case NumberCheck():
            return _number(check, text, _plain(question))
        case NumbersCheck():
            return _numbers(check, text)
        case LabelCheck():
            return _label(check, text, question)
        case SetCheck():
            return _set(check, text)
        case MappingCheck():
            return _mapping(check, text)
        case TextCheck():
            return _text(check, text)
        case DateCheck():
            return _date(check, text, _plain(question))
        case _:
            assert_never(check)


def _plain(text: str) -> str:
    """Without Markdown's emphasis, with plain minus signs and spaces."""
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("\u00a0", " ").replace("\u202f", " ")
    text = text.replace("\u2019", "'").replace("\\", "")
    return re.sub(r"\*\*|__|`|\$(?=\d)|(?<=\d)\{,\}", "", text).strip()


# --- numbers ------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+](?=\.?\d))?"
    r"(?P<digits>\d{1,3}(?:(?P<sep>[,' ])\d{3})(?:(?P=sep)\d{3})*(?![\d])|\d+)?(?P<decimals>\.\d+)?"
    r"(?:[eE](?P<e>[-+]?\d+)| ?[x×*] ?10\^\{?(?P<ten>[-+]?\d+)\}?)?"
    r"(?P<scale> ?(?:million|billion|thousand)\b)?"
)
_SCALE = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NOISE = re.compile(
    r"(?m)^\s*\d{1,2}[.)](?=\s)"  # the marks of a list
    r"|\b\d{4}[-/]\d{1,2}(?:[-/]\d{1,2})?\b"  # days and months
    r"|\b\d+(?:st|nd|rd|th)\b"
    r"|\b[\w-]+\.(?:csv|png|json|txt)\b"
)


@dataclass(frozen=True)
class Number:
    """A number as it was written. ``step`` is the worth of its last digit, ``digits`` how many count."""

    value: float
    step: float
    digits: int
    start: int
    end: int


def numbers_in(text: str) -> list[Number]:
    """The numbers of a text; those inside words, dates, file names, and the marks of lists left out."""
    text = _NOISE.sub(lambda match: " " * len(match[0]), text)
    found = []
    for match in _NUMBER.finditer(text):
        if match["digits"] is None and match["decimals"] is None:
            continue
        whole = re.sub(r"[,' ]", "", match["digits"] or "0")
        decimals = (match["decimals"] or ".")[1:]
        scale = _SCALE[match["scale"].strip()] if match["scale"] else 1.0
        if power := match["e"] or match["ten"]:
            scale *= 10.0 ** max(-300, min(300, int(power)))
        value = float(f"{whole}.{decimals or 0}") * scale
        count = len((whole + decimals).lstrip("0"))
        sign = -1 if match["sign"] == "-" else 1
        found.append(Number(sign * value, scale * 10.0 ** -len(decimals), count, match.start(), match.end()))
    if not found:
        words = re.finditer(rf"(?i)\b({'|'.join(_WORDS)})\b", text)
        found = [Number(float(_WORDS.index(w[0].lower())), 1.0, 3, w.start(), w.end()) for w in words]
    return found


def agrees(number: Number, value: float, *, exact: bool, digits: int | None = None) -> bool:
    """The written number is this value, or a correct rounding of it that keeps enough."""
    off = abs(number.value - value)
    if exact:
        return off < 1e-9 * max(1.0, abs(value))
    if off <= 1e-3 * abs(value) * (1 if digits is None else 0.5):
        return True
    enough = number.digits >= 3 or (digits is not None and number.step <= 10.0**-digits * 1.001)
    return enough and off <= number.step * 0.5000001 + 1e-9


_JOINED = re.compile(r"\s*(?:[,;/|]|\bor\b|\band\b|\bto\b|\bmaybe\b|\bperhaps\b|\beither\b|[-~])?\s*"
                     r"(?:\bor\b|\band\b|\bmaybe\b|\bperhaps\b|\beven\b)?\s*")  # fmt: skip


def _number(check: NumberCheck, text: str, question: str) -> str | None:
    def right(number: Number) -> bool:
        return agrees(number, check.value, exact=check.exact, digits=check.digits)

    every = numbers_in(text)
    if not any(right(number) for number in every):
        return f"the number {check.value:g} is not in the answer" if every else "the answer names no number"
    asked = {number.value for number in numbers_in(question)}
    claims = [n for n in every if right(n) or n.value not in asked]
    others = {n.value for n in claims if not right(n)}
    for one, two in itertools.pairwise(every):
        if right(one) != right(two) and _JOINED.fullmatch(text[one.end : two.start]) and {one, two} <= set(claims):
            return "the answer leaves open which number it means"
    leads = {
        two: _lead(text[one.end if one else 0 : two.start]) for one, two in zip([None, *every], every, strict=False)
    }
    of_right = {leads[n] for n in claims if right(n)} - {""}
    if any(leads[n] in of_right for n in claims if not right(n)):
        return "the answer says two things of one number"
    if len(others) <= BESIDES:
        return None
    last = next(line for line in reversed(text.splitlines()) if numbers_in(line))
    in_last = numbers_in(last)
    is_item = re.match(r"\s*(?:[-*|]|\d+[.)])\s", last) is not None or len(re.findall(r"[a-zA-Z]+", last)) < 2
    if not is_item and any(map(right, in_last)) and len([n for n in in_last if not right(n)]) <= 2:
        return None
    return "the answer names too many numbers to tell which it means"


def _lead(before: str) -> str:
    """The last two words of what stands between a number and the one before it."""
    return " ".join(re.findall(r"[a-zA-Z]+", before)[-2:]).lower()


def _numbers(check: NumbersCheck, text: str) -> str | None:
    found = [number for number in numbers_in(text)]
    wanted = list(check.values)
    # a sentence may begin with how many there are
    for skip in range(min(2, len(found)) + 1):
        rest = found[skip:]
        if len(rest) != len(wanted):
            continue
        rest = rest if check.ordered else sorted(rest, key=lambda n: n.value)
        order = wanted if check.ordered else sorted(wanted)
        if all(agrees(n, v, exact=check.exact) for n, v in zip(rest, order, strict=True)):
            return None
    return f"the answer should list {', '.join(f'{v:g}' for v in wanted)} and no other number"


# --- labels -------------------------------------------------------------------------------------------------------


def mentions(
    choices: Iterable[str], text: str, aliases: dict[str, tuple[str, ...]] | None = None
) -> list[tuple[int, int, str]]:
    """Where choices are named in a text: start, end, choice; a longer name hides a shorter one inside it."""
    forms = {form: choice for choice in choices for form in (choice, *(aliases or {}).get(choice, ()))}
    taken: list[tuple[int, int, str]] = []
    for form in sorted(forms, key=len, reverse=True):
        flags = re.IGNORECASE if len(form) > 2 else 0
        for match in re.finditer(rf"(?<!\w){re.escape(form)}(?!\w)", text, flags):
            if not any(start < match.end() and match.start() < end for start, end, _ in taken):
                taken.append((match.start(), match.end(), forms[form]))
    return sorted(taken)


DENIAL = r"(?i)\b(not|isn't|never|neither|nor|except)\s+(the\s+)?['\"]?$"


def _label(check: LabelCheck, text: str, question: str) -> str | None:
    found = mentions(check.choices, text, check.aliases)
    named = _in_order(choice for _, _, choice in found)
    if check.label not in named:
        return (
            f"the answer does not name {check.label}"
            if named
            else f"the answer names none of the choices ({check.label})"
        )
    for start, _, choice in found:
        if choice == check.label and re.search(DENIAL, text[:start]):
            return f"the answer denies {check.label}"
    others = [choice for choice in named if choice != check.label]
    if not others:
        return None
    for (_, end, one), (start, _, two) in itertools.pairwise(found):
        if one != two and check.label in (one, two) and _JOINED.fullmatch(re.sub(r"['\"]", "", text[end:start])):
            return "the answer leaves open which one it means"
    asked = {choice for _, _, choice in mentions(check.choices, question, check.aliases)}
    others = [choice for choice in others if choice not in asked or len(asked) >= len(check.choices)]
    if len(others) > 2 or (len(check.choices) > 2 and len(named) == len(check.choices)):
        return _committed(check, text, "the answer names too many to tell which it means")
    if not others or named[0] == check.label:
        return None
    return _committed(check, text, f"the answer names {named[0]} before {check.label}")


def _committed(check: LabelCheck, text: str, why: str) -> str | None:
    """The last sentence decides where it names one choice only, in words."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n", text) if mentions(check.choices, s, check.aliases)]
    last = sentences[-1]
    named = {choice for _, _, choice in mentions(check.choices, last, check.aliases)}
    item = re.match(r"\s*(?:[-*|]|\d+[.)])\s", last) is not None or len(re.findall(r"[a-zA-Z]+", last)) < 4
    return None if named == {check.label} and not item and not re.search(r"(?i)\bor\b|\bnot\b", last) else why


def _set(check: SetCheck, text: str) -> str | None:
    named = _in_order(choice for _, _, choice in mentions(check.choices, text))
    if missing := [label for label in check.labels if label not in named]:
        return f"the answer lacks {missing[0]}"
    if others := [label for label in named if label not in check.labels]:
        return f"the answer names {others[0]} too"
    if check.ordered and named != list(check.labels):
        return "the order is another one"
    return None


def _mapping(check: MappingCheck, text: str) -> str | None:
    found = mentions(check.choices, text)
    wanted = set(check.values)
    if others := [choice for _, _, choice in found if choice not in wanted]:
        return f"the answer names {others[0]} too"
    right = set()
    for place, (_, end, label) in enumerate(found):
        stop = found[place + 1][0] if place + 1 < len(found) else len(text)
        near = numbers_in(text[end : min(stop, end + 120)])
        if len(near) <= 2 and any(agrees(n, check.values[label], exact=check.exact) for n in near):
            right.add(label)
    if missing := sorted(wanted - right):
        return f"the answer does not give {missing[0]} its number {check.values[missing[0]]:g}"
    return None


def _in_order(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))


# --- texts and days -----------------------------------------------------------------------------------------------


def _text(check: TextCheck, text: str) -> str | None:
    wanted = " ".join(check.text.split())
    squeezed = " ".join(re.sub(r"[\"“”„«»]", " ", text).split())
    # capitals count where the task is about them
    fold: Callable[[str], str] = str if wanted != wanted.lower() else str.lower
    if not re.search(rf"(?<!\w){re.escape(fold(wanted))}(?!\w)", fold(squeezed)):
        return f"the answer does not say {wanted!r}"
    if re.search(rf"(?<!\w){re.escape(fold(wanted))}(?!\w)['\"]?(?:,| or|/) ?['\"]?\w", fold(squeezed)) and (
        re.search(r"\b(or|either|maybe)\b", squeezed.lower()) or squeezed.count(",") > 2
    ):
        return "the answer leaves open what it means"
    return "the answer says much besides" if len(squeezed.split()) > len(wanted.split()) + 40 else None


_MONTH = {name: number for number, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}  # fmt: skip
_DAYS: Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[int, int, int]]]] = (
    (re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b"), lambda m: (int(m[1]), int(m[2]), int(m[3]))),
    (re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([A-Za-z]{3})[a-z]*\.?,? (\d{4})\b"),
     lambda m: (int(m[3]), _MONTH.get(m[2].lower(), 0), int(m[1]))),
    (re.compile(r"\b([A-Za-z]{3})[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b"),
     lambda m: (int(m[3]), _MONTH.get(m[1].lower(), 0), int(m[2]))),
    (re.compile(r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b"), lambda m: (int(m[3]), int(m[2]), int(m[1]))),
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b"), lambda m: (int(m[3]), int(m[1]), int(m[2]))),
)  # fmt: skip


def days_in(text: str) -> list[date]:
    """The days of a text. ``3/5/2021`` is read with the month first."""
    found: dict[int, date] = {}
    for pattern, parts in _DAYS:
        for match in pattern.finditer(text):
            try:
                found.setdefault(match.start(), date(*parts(match)))
            except ValueError:
                continue
    return list(dict.fromkeys(found[start] for start in sorted(found)))


def _date(check: DateCheck, text: str, question: str) -> str | None:
    wanted = date.fromisoformat(check.date)
    asked = set(days_in(question))
    found = [day for day in days_in(text) if day == wanted or day not in asked]
    if wanted not in found:
        return f"the day {check.date} is not in the answer"
    if len(found) > 2 or (len(found) == 2 and (found[0] != wanted or re.search(r"\b(or|either|maybe)\b", text))):
        return "the answer leaves open which day it means"
    return None
