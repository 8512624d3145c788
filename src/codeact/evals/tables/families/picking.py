"""Rows that stand out, and what order tells."""

from __future__ import annotations

from codeact.evals.tables.families.shared import at, quoted
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading, rounded
from codeact.evals.tables.table import Cell, Column
from codeact.evals.task import LabelCheck, NumberCheck, NumbersCheck, SetCheck


def _named(setting: Setting) -> tuple[Column, Column, list[tuple[float, str]]]:
    """A column of names, one of numbers, and the rows in rising order of the numbers. LookupError where none fit."""
    name = setting.table.of("id")[0]
    of = setting.number()
    pairs = zip(of.values, name.values, strict=True)
    return name, of, sorted((float(v), str(n)) for v, n in pairs if isinstance(v, int | float))


def extreme_row(setting: Setting) -> Draft | None:
    name, of, ordered = _named(setting)
    highest = setting.rng.random() < 0.5
    ordered = ordered[::-1] if highest else ordered
    if ordered[0][0] == ordered[1][0]:
        return None
    end = "high" if highest else "low"
    adjective = setting.words.extreme(of, setting.table, highest)
    thing = setting.table.about or "rows"
    asks: tuple[str, ...] = (
        f"Which {{n}} has the <{end}> {{c}}?",
        f"Name the {{n}} whose {{c}} is <{end}>.",
        f"Where is {{c}} <{end}>? [Give|Name] the {{n}}.",
        f"Look for the <row> with the <{end}> {{c}}: what is its {{n}}?",
        f"Sort by {{c}} and name the {{n}} that comes {'last when rising' if highest else 'first when rising'}.",
        f"Who or what holds the {'record' if highest else 'low'} in {{c}}? Name the {{n}}.",
    )
    if adjective:
        asks += (f"Of all {{t}}, which is the {adjective}? Name its {{n}}.", f"What is the {{n}} of the {adjective} <row>?",
                 f"Which of the {{t}} is [the |]{adjective} ({{n}})?")  # fmt: skip
    return Draft(
        checks=(LabelCheck(label=ordered[0][1], choices=tuple(map(str, name.values))),),
        reference=(
            loading(setting.table.file),
            f"row = df.loc[{at(of)}.{'idxmax' if highest else 'idxmin'}()]\nprint(row[{quoted(name.name)}])",
        ),
        reply="It is {output}.",
        nouns=(f"the {{n}} with the <{end}> {{c}}", f"the {{n}} of the <row> where {{c}} is <{end}>"),
        asks=asks,
        slots={"n": setting.say(name), "c": setting.say(of), "t": thing},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def top_names(setting: Setting) -> Draft | None:
    name, of, ordered = _named(setting)
    highest = setting.rng.random() < 0.5
    ordered = ordered[::-1] if highest else ordered
    count = setting.rng.choice((2, 3, 3, 4, 5))
    if len({value for value, _ in ordered[: count + 1]}) < count + 1:
        return None
    end = "high" if highest else "low"
    adjective = setting.words.extreme(of, setting.table, highest)
    asks: tuple[str, ...] = (
        f"Which {{k}} {{t}} have the <{end}> {{c}}? Name [their|each one's] {{n}}, <{end}> first.",
        f"[Name|List] the {{n}} of the {{k}} <rows> with the <{end}> {{c}}, <{end}> first.",
        f"<find> the {'top' if highest else 'lowest'} {{k}} by {{c}} (their {{n}}, in order).",
        f"Sort by {{c}}, {'falling' if highest else 'rising'}: what are the first {{k}} {{n}}s?",
    )
    if adjective:
        asks += (f"What are the {{k}} {adjective} {{t}}? Name their {{n}} in order.",)
    return Draft(
        checks=(
            SetCheck(
                labels=tuple(label for _, label in ordered[:count]),
                choices=tuple(map(str, name.values)),
                ordered=True,
            ),
        ),
        reference=(
            loading(setting.table.file),
            f"top = df.n{'largest' if highest else 'smallest'}({count}, {quoted(of.name)})\n"
            f"print(', '.join(top[{quoted(name.name)}]))",
        ),
        reply="In order: {output}.",
        nouns=(f"the {{n}} of the {{k}} <rows> with the <{end}> {{c}}, in order,",),
        asks=asks,
        slots={"n": setting.say(name), "c": setting.say(of), "t": setting.table.about or "rows", "k": str(count)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def top_values(setting: Setting) -> Draft | None:
    of = setting.number()
    count = setting.rng.choice((2, 3, 3, 4, 5))
    highest = setting.rng.random() < 0.5
    ordered = sorted(set(of.numbers), reverse=highest)[:count]
    end = "high" if highest else "low"
    return Draft(
        checks=(NumbersCheck(values=tuple(rounded(value) for value in ordered), ordered=True),),
        reference=(
            loading(setting.table.file),
            f"values = {at(of)}.drop_duplicates().sort_values(ascending={not highest})\n"
            f"print(', '.join(map(str, values.head({count}))))",
        ),
        reply="They are {output}.",
        nouns=(f"the {{k}} <{end}> <different> values of {{c}}, <{end}> first,",),
        asks=(
            f"What are the {{k}} <{end}> <different> values of {{c}}, in order?",
            f"List the {{k}} <{end}> <different> values of {{c}}, <{end}> first.",
            f"Leaving out repetitions, which {{k}} values of {{c}} are <{end}>? Begin with the <{end}>.",
        ),
        slots={"c": setting.say(of), "k": str(count)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def look_up(setting: Setting) -> Draft | None:
    """A value of the row that is extreme in another column."""
    of = setting.number()
    other = setting.number(of, distinct=4)
    highest = setting.rng.random() < 0.5
    edge = (max if highest else min)(of.numbers)
    found = [v for v, w in zip(other.values, of.values, strict=True) if w == edge]
    if len(found) != 1 or not isinstance(found[0], int | float) or found[0] == edge:
        return None
    end = "high" if highest else "low"
    return Draft(
        checks=(NumberCheck(value=rounded(float(found[0]))),),
        reference=(
            loading(setting.table.file),
            f"row = df.loc[{at(of)}.{'idxmax' if highest else 'idxmin'}()]\nprint(row[{quoted(other.name)}])",
        ),
        reply=f"There {other.name} is {{output}}.",
        nouns=(f"{{o}} of the <row> with the <{end}> {{c}}", f"{{o}} [there |]where {{c}} is <{end}>"),
        asks=(
            f"Find the <row> with the <{end}> {{c}}. What is its {{o}}?",
            f"What {{o}} does the <row> with the <{end}> {{c}} have?",
            f"In the <row> in which {{c}} is <{end}>, how large is {{o}}?",
        ),
        slots={"c": setting.say(of), "o": setting.say(other)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def best_of_each(setting: Setting) -> Draft | None:
    """The name of the extreme row of each group."""
    name, of, _ = _named(setting)
    by = setting.label()
    label = setting.rng.choice(by.labels)
    rows = zip(of.values, name.values, by.values, strict=True)
    inside: list[tuple[float, Cell]] = [(float(v), n) for v, n, b in rows if b == label and isinstance(v, int | float)]
    highest = setting.rng.random() < 0.5
    inside.sort(key=lambda pair: pair[0], reverse=highest)
    if len(inside) < 3 or inside[0][0] == inside[1][0]:
        return None
    end = "high" if highest else "low"
    adjective = setting.words.extreme(of, setting.table, highest)
    asks: tuple[str, ...] = (
        f"Among the <rows> with {{l}} as {{b}}, which {{n}} has the <{end}> {{c}}?",
        f"Within {{l}} ({{b}}), name the {{n}} with the <{end}> {{c}}.",
        f"If only {{l}} ({{b}}) counts: which {{n}} has the <{end}> {{c}}?",
    )
    if adjective:
        asks += (f"Which of the {{t}} in {{l}} ({{b}}) is [the |]{adjective}? Name its {{n}}.",)
    return Draft(
        checks=(LabelCheck(label=str(inside[0][1]), choices=tuple(map(str, name.values))),),
        reference=(
            loading(setting.table.file),
            f"part = df[{at(by)} == {quoted(label)}]\n"
            f"row = part.loc[{at(of, 'part')}.{'idxmax' if highest else 'idxmin'}()]\nprint(row[{quoted(name.name)}])",
        ),
        reply=f"Within {label} it is {{output}}.",
        nouns=(f"the {{n}} with the <{end}> {{c}} within {{l}} ({{b}})",),
        asks=asks,
        slots={"n": setting.say(name), "c": setting.say(of), "b": setting.say(by), "l": label,
               "t": setting.table.about or "rows"},
        files=csv_file(setting.table),
        file=setting.table.file,
    )  # fmt: skip


def cumulative_half(setting: Setting) -> Draft | None:
    of = setting.number()
    if min(of.numbers) < 0 or not of.whole:
        return None
    share = setting.rng.choice((50, 80))
    total, reached, count = sum(of.numbers), 0.0, 0
    for value in sorted(of.numbers, reverse=True):
        if abs(reached / total - share / 100) < 1e-6:
            return None
        if reached >= total * share / 100:
            break
        reached += value
        count += 1
    return Draft(
        checks=(NumberCheck(value=count, exact=True),),
        reference=(
            loading(setting.table.file),
            f"ordered = {at(of)}.sort_values(ascending=False)\n"
            f"print((ordered.cumsum() < ordered.sum() * {share / 100}).sum() + 1)",
        ),
        reply="It takes {output} rows.",
        nouns=("the least number of <rows>, largest first, that together hold {s} % of the total of {c}",),
        asks=(
            "Beginning with the largest {c}: how many <rows> does it take until they hold {s} % of its total?",
            "How many of the largest values of {c} are needed to reach {s} percent of the sum?",
        ),
        slots={"c": setting.say(of), "s": str(share)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


FAMILIES = (
    Family("extreme_row", 1, extreme_row),
    Family("top_names", 2, top_names),
    Family("top_values", 1, top_values),
    Family("look_up", 2, look_up),
    Family("best_of_each", 3, best_of_each),
    Family("cumulative_half", 3, cumulative_half),
)
