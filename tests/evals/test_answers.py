"""Answers are read as people write them, and those that do not commit themselves are not taken."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.evals.answers import days_in, judge_answer, numbers_in
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

MEAN = NumberCheck(value=20.090625, digits=2)
LOOSE = NumberCheck(value=1234567.891)
COUNT = NumberCheck(value=12, exact=True)
SHARE = NumberCheck(value=42.3077)
NEGATIVE = NumberCheck(value=-0.7702, digits=3)
REGIONS = ("North", "South", "East", "West")
TOP = LabelCheck(label="North", choices=REGIONS)
MONTH = LabelCheck(label="2021-03", choices=("2021-02", "2021-03", "2021-04"), aliases={"2021-03": ("March 2021",)})
SOME = SetCheck(labels=("East", "North"), choices=REGIONS)
RANKED = SetCheck(labels=("West", "North"), choices=REGIONS, ordered=True)
MEANS = MappingCheck(values={"North": 10.5, "South": 7.25}, choices=REGIONS)
LIST = NumbersCheck(values=(9.0, 7.5, 3.0), ordered=True)
WORD = TextCheck(text="rorrim")
DAY = DateCheck(date="2021-03-05")
QUESTION = "What is the mean of mpg where hp is above 110?"

RIGHT: list[tuple[AnswerCheck, str]] = [
    (MEAN, "20.09"),
    (MEAN, "The mean is **20.09**."),
    (MEAN, "The mean mpg is 20.09 (exactly 20.090625), over 32 cars with hp above 110."),
    (MEAN, "The result is \\(20.09\\)."),
    (MEAN, "It is 20.1 miles per gallon."),
    (MEAN, "- South: 14\n- North: 15\n- East: 16\n- West: 17\n\nSo the mean of all cars is 20.09."),
    (LOOSE, "1,234,567.891"),
    (LOOSE, "about 1.235 million"),
    (LOOSE, "$1 234 568"),
    (LOOSE, "1.2346e6"),
    (LOOSE, "1.2346 × 10^6"),
    (LOOSE, "The total is 1'234'567.89 EUR."),
    (COUNT, "There are 12 rows."),
    (COUNT, "Twelve."),
    (COUNT, "12.0"),
    (COUNT, "Of the 392 rows, 12 have it."),
    (COUNT, "The file cars_2021.csv has 12 rows."),
    (SHARE, "42.3%"),
    (SHARE, "42.3 percent of them"),
    (SHARE, "That is 42.3 % (11 of 26)."),
    (NEGATIVE, "The correlation is \u22120.770, so it is strong and falling."),
    (TOP, "North"),
    (TOP, "**North** has the highest mean (12.1), followed by South."),
    (TOP, "The north."),
    (TOP, "Compared with South, the others are weak. The region with the highest mean is North."),
    (MONTH, "It was March 2021."),
    (MONTH, "2021-03"),
    (SOME, "North and East."),
    (SOME, "- East\n- North\n"),
    (RANKED, "1. West (12)\n2. North (7)"),
    (MEANS, "North: 10.5\nSouth: 7.25"),
    (MEANS, "| region | mean |\n|---|---|\n| North | 10.50 |\n| South | 7.25 |"),
    (MEANS, "For South it is 7.25, and for North 10.5."),
    (LIST, "9, 7.5 and 3"),
    (LIST, "The 3 largest are 9.0, 7.5 and 3.0."),
    (WORD, 'It is "rorrim".'),
    (WORD, "Rorrim"),
    (DAY, "2021-03-05"),
    (DAY, "It was on 5 March 2021."),
    (DAY, "March 5th, 2021"),
    (DAY, "05.03.2021"),
]

WRONG: list[tuple[AnswerCheck, str]] = [
    (MEAN, ""),
    (MEAN, "I could not compute it."),
    (MEAN, "20"),
    (MEAN, "20.3"),
    (MEAN, "2009"),
    (MEAN, "It is 20.09 or 19.2."),
    (MEAN, "18.1, 19.2, 20.09, 22.8"),
    (MEAN, "19.2 / 20.09"),
    (MEAN, "The mean is 20.09. The mean is 19.2."),
    (MEAN, "\n".join(f"candidate {n}: {n / 100}" for n in range(1900, 2100))),
    (MEAN, "min 10.4, max 33.9, median 19.2, std 6.03, mean 20.09"),
    (LOOSE, "1,234"),
    (LOOSE, "1.2 million"),
    (COUNT, "13"),
    (COUNT, "12.4"),
    (COUNT, "between 11 and 12"),
    (COUNT, "1 2 3 4 5 6 7 8 9 10 11 12 13"),
    (COUNT, "It is in column x12."),
    (NEGATIVE, "0.770"),
    (SHARE, "0.423"),
    (TOP, "South"),
    (TOP, "North, South, East or West"),
    (TOP, "North or South"),
    (TOP, "Either North or West has it."),
    (TOP, "It is not North."),
    (TOP, "South has the highest mean, then North."),
    (TOP, "North 12\nSouth 11\nEast 10\nWest 9"),
    (TOP, "Northern parts"),
    (MONTH, "February 2021, 2021-02"),
    (SOME, "North"),
    (SOME, "North, South, East, West"),
    (SOME, "East, North and West"),
    (RANKED, "North, West"),
    (MEANS, "North: 7.25\nSouth: 10.5"),
    (MEANS, "North: 10.5"),
    (MEANS, "North: 10.5, South: 7.25, East: 3"),
    (MEANS, "North, South: 7.25, 10.5, 3, 4, 5, 6"),
    (LIST, "3, 7.5, 9"),
    (LIST, "9, 7.5, 3, 2, 1"),
    (LIST, "9 and 7.5"),
    (WORD, "mirror"),
    (WORD, "errorrim"),
    (WORD, "either rorrim, or mirror"),
    (WORD, "rorrim " + "and so on " * 30),
    (DAY, "5 April 2021"),
    (DAY, "2021-03-05 or 2021-03-06"),
    (DAY, "2021-03-04, 2021-03-05, 2021-03-06"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_are_taken(check: AnswerCheck, answer: str) -> None:
    assert judge_answer(check, answer, QUESTION) is None


@pytest.mark.parametrize(("check", "answer"), WRONG)
def test_wrong_or_open_answers_are_not(check: AnswerCheck, answer: str) -> None:
    why = judge_answer(check, answer, QUESTION)
    assert why is not None and "\n" not in why


def test_capitals_count_where_the_task_is_about_them() -> None:
    check = TextCheck(text="Amber Stone")
    assert judge_answer(check, "It is: Amber Stone", "") is None
    assert judge_answer(check, "amber stone", "") is not None


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False).filter(lambda v: abs(v) > 1e-3))
def test_a_number_is_found_as_python_prints_it(value: float) -> None:
    value = float(f"{value:.8g}")
    for text in (f"{value!r}", f"{value:,.6f}", f"The value is {value:.10g}."):
        (found,) = numbers_in(text)
        assert found.value == pytest.approx(value, rel=1e-6, abs=1e-6)


@given(st.dates(min_value=date(1900, 1, 1), max_value=date(2100, 1, 1)))
def test_a_day_is_found_in_every_form(day: date) -> None:
    for form in ("%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%b %d %Y", "%d.%m.%Y", "%Y/%m/%d"):
        assert days_in(f"It was {day.strftime(form)}, I think.") == [day]


@given(st.text(max_size=200), st.sampled_from([check for check, _ in RIGHT]))
def test_any_text_gets_a_verdict(text: str, check: AnswerCheck) -> None:
    why = judge_answer(check, text, QUESTION)
    assert why is None or why
