"""Days: months and weekdays, spans, several ways to write a day, rolling windows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import date, timedelta

from codeact.evals.tables.families.shared import at, measured, quoted, shown
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading, rounded
from codeact.evals.tables.table import Column, Table, clear_extreme
from codeact.evals.task import DateCheck, File, FrameCheck, LabelCheck, NumberCheck

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _dated(setting: Setting) -> tuple[Table, Column, Column, list[tuple[date, float]]]:
    table = setting.made(rows=(60, 240))
    day, of = table.of("date")[0], setting.rng.choice(table.of("number"))
    pairs = zip(day.values, of.numbers, strict=True)
    return table, day, of, [(date.fromisoformat(str(d)), v) for d, v in pairs]


def _loading(table: Table, day: Column) -> str:
    return loading(table.file, look=False, arguments=f", parse_dates=[{quoted(day.name)}]") + "\nprint(df.dtypes)"


def best_month(setting: Setting) -> Draft | None:
    table, day, of, pairs = _dated(setting)
    sums: dict[str, float] = {}
    for when, value in pairs:
        month = f"{when:%Y-%m}"
        sums[month] = sums.get(month, 0.0) + value
    highest = setting.rng.random() < 0.6
    best = clear_extreme(sums, highest)
    if best is None or len(sums) < 3:
        return None
    names = {m: f"{MONTHS[int(m[5:]) - 1]} {m[:4]}" for m in sums}
    aliases = {
        m: (name, f"{name[:3]} {m[:4]}", f"{m[5:]}/{m[:4]}", name.replace(" ", ", ")) for m, name in names.items()
    }
    end = "high" if highest else "low"
    return Draft(
        checks=(LabelCheck(label=best, choices=tuple(sorted(sums)), aliases=aliases),),
        reference=(
            _loading(table, day),
            f"by = df.groupby({at(day)}.dt.strftime(\"%Y-%m\"))[{quoted(of.name)}].sum()\n"
            f"print(by.{'idxmax' if highest else 'idxmin'}())",
        ),
        reply="It was {output}.",
        nouns=(f"the month (with its year) with the <{end}> <sum> of {{c}}",),
        asks=(
            f"In which month [of which year |]was the <sum> of {{c}} <{end}>?",
            f"Which month, by {{d}}, has the <{end}> <sum> of {{c}}? Name its year too.",
            f"Add up {{c}} month by month. Which month and year come out <{end}>?",
            f"Month by month, when was {{c}} in total <{end}>? Say month and year.",
        ),
        slots={"c": setting.words.column(of, table), "d": setting.words.column(day, table)},
        files=csv_file(table), file=table.file, table=table.name,
    )  # fmt: skip


def month_total(setting: Setting) -> Draft:
    table, day, of, pairs = _dated(setting)
    when = setting.rng.choice(pairs)[0]
    value = math.fsum(v for d, v in pairs if (d.year, d.month) == (when.year, when.month))
    check, digits = measured(setting, value)
    return Draft(
        checks=(check,),
        reference=(
            _loading(table, day),
            f"month = {at(day)}.dt.strftime(\"%Y-%m\") == \"{when:%Y-%m}\"\n"
            + shown(f"df.loc[month, {quoted(of.name)}].sum()", digits),
        ),
        reply="It comes to {output}.",
        nouns=("the <sum> of {c} in {m}", "the <sum> of {c} for the month {m}"),
        asks=(
            "How much is {c} in {m}, all <rows> together?",
            "Add up {c} over {m} (see {d}).",
            "What does {c} come to in {m}?",
        ),
        slots={"c": setting.words.column(of, table), "d": setting.words.column(day, table),
               "m": setting.rng.choice((f"{MONTHS[when.month - 1]} {when.year}", f"{when:%Y-%m}"))},
        files=csv_file(table), file=table.file, ending=setting.words.rounding(digits), table=table.name,
    )  # fmt: skip


def best_weekday(setting: Setting) -> Draft | None:
    table, day, of, pairs = _dated(setting)
    by_count = setting.rng.random() < 0.5
    found: dict[str, list[float]] = {}
    for when, value in pairs:
        found.setdefault(WEEKDAYS[when.weekday()], []).append(value)
    sizes = {k: float(len(v)) if by_count else math.fsum(v) / len(v) for k, v in found.items()}
    highest = setting.rng.random() < 0.6
    weekday = clear_extreme(sizes, highest)
    if weekday is None or len(sizes) < 7:
        return None
    end, pick = ("high", "idxmax") if highest else ("low", "idxmin")
    most = "most" if highest else "fewest"
    aliases = {name: (f"{name}s", name[:3]) for name in WEEKDAYS}
    return Draft(
        checks=(LabelCheck(label=weekday, choices=WEEKDAYS, aliases=aliases),),
        reference=(
            _loading(table, day),
            f"name = {at(day)}.dt.day_name()\n"
            + (f"print(name.value_counts().{pick}())" if by_count
               else f"print({at(of)}.groupby(name).mean().{pick}())"),
        ),
        reply="It is {output}.",
        nouns=(f"the day of the week with the {most} <rows> (by {{d}})",) if by_count
        else (f"the day of the week with the <{end}> <mean> {{c}}",),
        asks=(f"On which day of the week are there the {most} <rows>, by {{d}}?",
              f"Which weekday, Monday to Sunday, has the {most} <rows>?",
              f"What day of the week comes up {'most' if highest else 'least'} often in {{d}}?") if by_count
        else (f"On which day of the week is the <mean> of {{c}} <{end}>?",
              f"Which weekday, Monday to Sunday, has the <{end}> <mean> {{c}} (see {{d}})?"),
        slots={"c": setting.words.column(of, table), "d": setting.words.column(day, table)},
        files=csv_file(table), file=table.file, table=table.name,
    )  # fmt: skip


def days_between(setting: Setting) -> Draft:
    table, day, _, pairs = _dated(setting)
    days = sorted(d for d, _ in pairs)
    kind = setting.rng.choice(("first", "last", "between"))
    c = at(day)
    if kind == "between":
        return Draft(
            checks=(NumberCheck(value=(days[-1] - days[0]).days, exact=True),),
            reference=(_loading(table, day), f"print(({c}.max() - {c}.min()).days)"),
            reply="There are {output} days between them.",
            nouns=("the <number> of days from the first to the last day in {d}",),
            asks=(
                "How many days [are|lie|pass] between the earliest and the latest {d}?",
                "From the first to the last {d}: how many days is that?",
                "How long a time, in days, does {d} cover (last minus first)?",
                "What span of days does {d} cover (last minus first)?",
            ),
            slots={"d": f"'{day.name}'"},
            files=csv_file(table), file=table.file, table=table.name,
        )  # fmt: skip
    first = kind == "first"
    word = "[earliest|first]" if first else "[latest|last|most recent]"
    return Draft(
        checks=(DateCheck(date=(days[0] if first else days[-1]).isoformat()),),
        reference=(_loading(table, day), f"print({c}.{'min' if first else 'max'}().date())"),
        reply="It is {output}.",
        nouns=(f"the {word} day in {{d}}", f"the {word} date of {{d}}"),
        asks=(
            f"What is the {word} date in {{d}}?",
            "When does {d} begin?" if first else "When does {d} end?",
            f"On what day was the {word} <row> (by {{d}})?",
        ),
        slots={"d": f"'{day.name}'"},
        files=csv_file(table), file=table.file, table=table.name,
    )  # fmt: skip


_WAYS: tuple[Callable[[date], str], ...] = (
    date.isoformat,
    lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1][:3]} {d.day}, {d.year}",
    lambda d: f"{d:%Y/%m/%d}",
    lambda d: f"{d.day:02}-{MONTHS[d.month - 1][:3]}-{d.year}",
)
"""Ways to write a day that cannot be taken for another one."""


def mixed_days(setting: Setting) -> Draft | None:
    table, day, of, pairs = _dated(setting)
    chosen = setting.rng.sample(_WAYS, 3)
    values = tuple(setting.rng.choice(chosen)(d) for d, _ in pairs)
    columns = tuple(dataclasses.replace(c, values=values) if c is day else c for c in table.columns)
    month = setting.rng.choice(sorted({d.month for d, _ in pairs}))
    inside = [v for d, v in pairs if d.month == month]
    count = setting.rng.random() < 0.5
    check, digits = (
        (NumberCheck(value=len(inside), exact=True), None) if count else measured(setting, math.fsum(inside))
    )
    code = f'month = pd.to_datetime({at(day)}, format="mixed").dt.month\n'
    return Draft(
        checks=(check,),
        reference=(
            loading(table.file),
            code + (f"print((month == {month}).sum())" if count
                    else shown(f"df.loc[month == {month}, {quoted(of.name)}].sum()", digits)),
        ),
        reply="The result is {output}.",
        nouns=("the <number> of <rows> [whose {d} is in|from] {m}, whatever the year",) if count
        else ("the <sum> of {c} over all <rows> [from|of] {m}, whatever the year",),
        asks=("{d} is written in several ways. How many <rows> fall into {m}, in any year?",
              "How many <rows> are from {m} (by {d}, any year)? Mind that days are written differently.") if count
        else ("{d} is written in several ways. What is the <sum> of {c} in {m}, all years together?",
              "Parse {d} first, its forms differ. How much is {c} in total for {m} of any year?"),
        slots={"c": setting.words.column(of, table), "d": f"'{day.name}'", "m": MONTHS[month - 1]},
        files=(File(name=table.file, data=dataclasses.replace(table, columns=columns).csv()),),
        file=table.file, ending=setting.words.rounding(digits), table=table.name,
    )  # fmt: skip


def resampled_file(setting: Setting) -> Draft:
    table, day, of, pairs = _dated(setting)
    sums: dict[str, float] = {}
    for when, value in pairs:
        sums[f"{when:%Y-%m}"] = sums.get(f"{when:%Y-%m}", 0.0) + value
    file = setting.rng.choice(("monthly.csv", "by_month.csv", "months.csv"))
    return Draft(
        checks=(
            FrameCheck(
                file=file,
                columns=("month", "total"),
                rows=tuple((m, rounded(v)) for m, v in sorted(sums.items())),
                ordered=True,
            ),
        ),
        reference=(
            _loading(table, day),
            f"month = {at(day)}.dt.strftime(\"%Y-%m\").rename(\"month\")\n"
            f"out = {at(of)}.groupby(month).sum().rename(\"total\").reset_index()\n"
            f"out.to_csv({quoted(file)}, index=False)\nprint(out)",
        ),
        reply=f"The monthly totals are in {file}.",
        asks=(
            "<save> the monthly <sum> of {c} (by {d}) as {f}, with the columns month (like 2021-07) and total, oldest first. "
            "Months without <rows> are left out.",
            "I need {f}: two columns, month (YYYY-MM) and total, the <sum> of {c} for each month that occurs in {d}, in order "
            "of time.",
        ),
        slots={"c": setting.words.column(of, table), "d": f"'{day.name}'", "f": file},
        files=csv_file(table), file=table.file, table=table.name,
    )  # fmt: skip


def _series(setting: Setting) -> tuple[str, list[date], list[float], tuple[File, ...], str]:
    """One number a day, without holes: name of the number, days, values, file."""
    name = setting.rng.choice(("visitors", "sales", "rain_mm", "output", "calls", "steps", "energy"))
    start = date(setting.rng.randint(2018, 2024), setting.rng.randint(1, 12), setting.rng.randint(1, 28))
    count = setting.rng.randint(40, 150)
    days = [start + timedelta(days=step) for step in range(count)]
    values = [float(setting.rng.randint(5, 900)) for _ in days]
    table = Table("made/daily", setting.rng.choice(("daily.csv", f"{name}.csv", "series.csv")), (
        Column("date", "date", tuple(d.isoformat() for d in days)),
        Column(name, "number", tuple(int(v) for v in values)),
    ))  # fmt: skip
    return name, days, values, csv_file(table), table.file


def rolling_peak(setting: Setting) -> Draft:
    name, _, values, files, file = _series(setting)
    width = setting.rng.choice((3, 5, 7, 14))
    means = [math.fsum(values[i : i + width]) / width for i in range(len(values) - width + 1)]
    check, digits = measured(setting, max(means))
    return Draft(
        checks=(check,),
        reference=(
            loading(file),
            shown(f"df[{quoted(name)}].rolling({width}).mean().max()", digits),
        ),
        reply="The highest moving average is {output}.",
        nouns=("the <high> {w}-day moving average of {c}", "the <high> <mean> of {c} over any {w} days in a row"),
        asks=(
            "Take the rolling <mean> of {c} over {w} days. How high does it get?",
            "Over which value does the moving average (window {w}) of {c} never rise, but reach it?",
        ),
        slots={"c": name, "w": str(width)},
        files=files, file=file, ending=setting.words.rounding(digits), table="made/daily",
    )  # fmt: skip


def day_change(setting: Setting) -> Draft | None:
    name, days, values, files, file = _series(setting)
    up = setting.rng.random() < 0.5
    steps = {days[i].isoformat(): values[i] - values[i - 1] for i in range(1, len(values))}
    when = clear_extreme(steps, highest=up, margin=1e-9)
    if when is None:
        return None
    word = "rise" if up else "fall"
    return Draft(
        checks=(DateCheck(date=when),),
        reference=(
            loading(file),
            f"step = df[{quoted(name)}].diff()\nprint(df.loc[step.{'idxmax' if up else 'idxmin'}(), \"date\"])",
        ),
        reply="It was on {output}.",
        nouns=(f"the day with the <high> {word} of {{c}} against the day before",),
        asks=(
            f"On which day did {{c}} {word} most against the day before?",
            f"Compare each day with the one before: when did {{c}} {word} most?",
            f"When was the <high> day-to-day {word} of {{c}}? Give the day on which it arrived.",
        ),
        slots={"c": name}, files=files, file=file, table="made/daily",
    )  # fmt: skip


def longest_streak(setting: Setting) -> Draft:
    name, _, values, files, file = _series(setting)
    limit = setting.rng.choice((150, 250, 350, 450))
    best = run = 0
    for value in values:
        run = run + 1 if value > limit else 0
        best = max(best, run)
    return Draft(
        checks=(NumberCheck(value=best, exact=True),),
        reference=(
            loading(file),
            f"best = run = 0\nfor value in df[{quoted(name)}]:\n    run = run + 1 if value > {limit} else 0\n"
            "    best = max(best, run)\nprint(best)",
        ),
        reply="The longest streak has {output} days.",
        nouns=("the length in days of the longest unbroken run with {c} <above> {x}",),
        asks=(
            "For how many days in a row was {c} <above> {x}, at most?",
            "What is the longest streak of days with {c} <above> {x}?",
        ),
        slots={"c": name, "x": str(limit)}, files=files, file=file, table="made/daily",
    )  # fmt: skip


FAMILIES = (
    Family("best_month", 2, best_month, "made"),
    Family("month_total", 2, month_total, "made"),
    Family("best_weekday", 2, best_weekday, "made"),
    Family("days_between", 1, days_between, "made"),
    Family("mixed_days", 3, mixed_days, "made"),
    Family("resampled_file", 3, resampled_file, "made"),
    Family("day_change", 2, day_change, "own"),
    Family("rolling_peak", 3, rolling_peak, "own"),
    Family("longest_streak", 3, longest_streak, "own"),
)
