"""One number of one table."""

from __future__ import annotations

import math

from codeact.evals.tables.families.shared import MIDDLE, STATISTICS, at, measured, plain, quoted, shown, threshold
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading, rounded
from codeact.evals.tables.table import Table, quantile
from codeact.evals.task import NumberCheck


def _draft(
    table: Table, check: NumberCheck, code: str, digits: int | None = None, ending: str = "", **rest: object
) -> Draft:
    reply = rest.pop("reply", "The result is {output}.")
    return Draft(
        checks=(check,),
        reference=(loading(table.file), code),
        reply=str(reply),
        files=csv_file(table),
        file=table.file,
        ending=ending,
        **rest,  # type: ignore[arg-type]
    )


def count_rows(setting: Setting) -> Draft:
    table = setting.table
    return _draft(
        table,
        NumberCheck(value=len(table), exact=True),
        "print(len(df))",
        reply="There are {output} rows.",
        nouns=("the <number> of <rows>", "how many <rows> there are", "the length of the table, header not counted"),
        asks=(
            "How many <rows> [are there|does it have|are in the table]?",
            "[What is its size, that is, how many|How large is the table: how many] <rows>[ has it|]?",
            "Count the <rows>.",
            "[I lost count.|] How many <rows> below the header?",
            "<find> the <number> of <rows>[ without the header|].",
        ),
    )


def aggregate(setting: Setting) -> Draft:
    table, column = setting.table, setting.number(distinct=6)
    word = setting.rng.choice(tuple(STATISTICS))
    method, compute = STATISTICS[word]
    value = compute(column.numbers)
    if word in ("high", "low"):
        check, digits = NumberCheck(value=rounded(value)), None
    else:
        check, digits = measured(setting, value)
    asks = {
        "mean": ("How large is {c} on average?", "On average, what is {c}?", "What {c} does [a|one] <row> have on average?"),
        "median": ("Half of the <rows> lie below which value of {c}?", "What is {c} of the [middle|median] <row>?"),
        "sum": ("What does {c} add up to?", "Add up {c}.", "How much is {c} [all together|in all|altogether]?", "Tot up {c}."),
        "std": ("How much does {c} vary, as <std>?", "How spread out is {c} (<std>)?"),
        "high": ("How high does {c} go?", "What does {c} reach at most?", "Which value of {c} is never exceeded, but reached?"),
        "low": ("How low does {c} go?", "What is {c} at least, over all <rows>?", "Which value does {c} never fall below, but reach?"),
    }[word]  # fmt: skip
    return _draft(
        table,
        check,
        shown(f"{at(column)}.{method}()", digits),
        ending=setting.words.rounding(digits),
        reply=f"The {method} of {column.name} is {{output}}.",
        nouns=(f"the <{word}> of {{c}}", f"the <{word}> {{c}}" if word not in ("std",) else "the <std> of {c}"),
        asks=asks,
        slots={"c": setting.say(column)},
    )


def distinct_count(setting: Setting) -> Draft:
    table = setting.table
    column = setting.rng.choice([c for c in table.columns if c.kind in ("label", "text", "date") and c.whole])
    return _draft(
        table,
        NumberCheck(value=len(set(column.values)), exact=True),
        f"print({at(column)}.nunique())",
        reply=f"{column.name} has {{output}} different values.",
        nouns=("the <number> of <different> values [in|of] {c}", "how many <different> values {c} has"),
        asks=(
            "How many <different> values [does {c} have|are there in {c}|occur in {c}]?",
            "Count the <different> [entries|values] of {c}.",
            "If every value of {c} counts once only, how many are there?",
            "[Not counting repeats|Leaving out repetitions], how many values does {c} take?",
        ),
        slots={"c": setting.say(column)},
    )


def filter_count(setting: Setting) -> Draft | None:
    table, column = setting.table, setting.number()
    limit = threshold(setting, column)
    if limit is None:
        return None
    more = setting.rng.random() < 0.5
    value = sum(number > limit if more else number < limit for number in column.numbers)
    word = "above" if more else "below"
    return _draft(
        table,
        NumberCheck(value=value, exact=True),
        f"print(({at(column)} {'>' if more else '<'} {plain(limit)}).sum())",
        reply="{output} rows meet the condition.",
        nouns=(f"the <number> of <rows> [where|in which] {{c}} is <{word}> {{x}}",),
        asks=(
            f"How many <rows> have {{c}} <{word}> {{x}}?",
            f"In how many <rows> is {{c}} <{word}> {{x}}?",
            f"Count the <rows> whose {{c}} is <{word}> {{x}}.",
            f"How often is {{c}} <{word}> {{x}}?",
            f"Keep only <rows> with {{c}} <{word}> {{x}}: how many [are left|remain]?",
            "How [often|many times] does {c} exceed {x}?"
            if more
            else "How [often|many times] does {c} stay under {x}?",
        ),
        slots={"c": setting.say(column), "x": plain(limit)},
    )


def filter_aggregate(setting: Setting) -> Draft | None:
    table, column = setting.table, setting.number(distinct=6)
    by = setting.rng.choice(table.of("label"))
    label = setting.rng.choice(by.labels)
    word = setting.rng.choice((*MIDDLE, "high", "low"))
    method, compute = STATISTICS[word]
    numbers = [
        float(v) for v, w in zip(column.values, by.values, strict=True) if w == label and isinstance(v, int | float)
    ]
    if len(numbers) < 2:
        return None
    check, digits = measured(setting, compute(numbers))
    if word in ("high", "low"):
        check, digits = NumberCheck(value=check.value), None
    return _draft(
        table,
        check,
        f"part = df[{at(by)} == {quoted(label)}]\n" + shown(f"{at(column, 'part')}.{method}()", digits),
        ending=setting.words.rounding(digits),
        reply=f"For {label} the {method} of {column.name} is {{output}}.",
        nouns=(
            f"the <{word}> of {{c}} [for|among|over] <rows> [where|in which] {{b}} is {{l}}",
            f"the <{word}> {{c}} [for|of|among] {{b}} {{l}}",
            f"the <{word}> of {{c}} if only {{l}} (in {{b}}) counts",
        ),
        asks=(
            f"Take only the <rows> where {{b}} is {{l}}. What is the <{word}> of {{c}}?",
            f"[Considering|Looking at] {{l}} only (see {{b}}), what is the <{word}> of {{c}}?",
            f"<find> the <{word}> of {{c}} but leave out every <row> whose {{b}} is not {{l}}.",
        ),
        slots={"c": setting.say(column), "b": setting.say(by), "l": setting.rng.choice((label, f"'{label}'"))},
    )


def share(setting: Setting) -> Draft | None:
    table = setting.table
    by = setting.rng.choice(table.of("label"))
    label = setting.rng.choice(by.labels)
    check, digits = measured(setting, 100 * by.values.count(label) / len(table))
    return _draft(
        table,
        check,
        shown(f"({at(by)} == {quoted(label)}).mean() * 100", digits),
        ending=setting.words.rounding(digits),
        reply=f"{{output}} % of the rows have {label}.",
        nouns=("the <share> of <rows> [where|in which] {b} is {l}", "the <share> of {l} [in|among] {b}"),
        asks=(
            "What percentage of the <rows> [has|have] {l} as {b}?",
            "How many percent of the <rows> are {l} ({b})?",
            "Out of 100 <rows>, how many have {l} in {b} on average?",
            "How large is the <share> of {l} in {b}?",
            "As a percentage: how common is {l} in {b}?",
        ),
        slots={"b": setting.say(by), "l": setting.rng.choice((label, f"'{label}'"))},
    )


def percentile(setting: Setting) -> Draft:
    table, column = setting.table, setting.number(distinct=15)
    share = setting.rng.choice((10, 25, 75, 90, 95))
    check, digits = measured(setting, quantile(column.numbers, share / 100))
    return _draft(
        table,
        check,
        shown(f"{at(column)}.quantile({share / 100})", digits),
        ending=" Use linear interpolation." + setting.words.rounding(digits),
        reply="The percentile is {output}.",
        nouns=("the {p}th percentile of {c}", "the {s} quantile of {c}", "the {p} % quantile of {c}"),
        asks=(
            "Which value of {c} is not exceeded in {p} % of the <rows>?",
            "Below which value do {p} percent of {c} lie?",
            "Where does {c} cut off the lower {p} percent of the <rows>?",
        ),
        slots={"c": setting.say(column), "p": str(share), "s": str(share / 100)},
    )


def ratio(setting: Setting) -> Draft | None:
    table = setting.table
    above = setting.number()
    below = setting.number(above)
    pairs = [(a, b) for a, b in zip(above.values, below.values, strict=True)]
    kept = [float(a) / float(b) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float) and b]
    if len(kept) < len(table):
        return None
    word = setting.rng.choice(("mean", "median", "high"))
    method, compute = STATISTICS[word]
    value = compute(kept)
    if not math.isfinite(value) or abs(value) < 1e-4:
        return None
    check, digits = measured(setting, value)
    return _draft(
        table,
        check,
        f'df["ratio"] = {at(above)} / {at(below)}\n' + shown(f'df["ratio"].{method}()', digits),
        ending=setting.words.rounding(digits),
        reply=f"The {method} of the ratio is {{output}}.",
        nouns=(
            f"the <{word}> over the <rows> of {{a}} divided by {{b}}",
            f"the <{word}> of the row-wise ratio of {{a}} to {{b}}",
            f"the <{word}> of a new column {{a}} / {{b}}",
        ),
        asks=(
            f"For <each> <row>, divide {{a}} by {{b}}. What is the <{word}> of the results?",
            f"Make a column ratio = {{a}} / {{b}} and <find0> its <{word}>.",
        ),
        slots={"a": setting.say(above), "b": setting.say(below)},
    )


def z_scores(setting: Setting) -> Draft | None:
    table, column = setting.table, setting.number(distinct=12)
    numbers = column.numbers
    mean, spread = STATISTICS["mean"][1](numbers), STATISTICS["std"][1](numbers)
    edge = setting.rng.choice((1, 1.5, 2))
    sizes = [abs(n - mean) / spread for n in numbers]
    if any(abs(size - edge) < 1e-6 for size in sizes):
        return None
    return _draft(
        table,
        NumberCheck(value=sum(size > edge for size in sizes), exact=True),
        f"c = {at(column)}\nz = (c - c.mean()) / c.std()\nprint((z.abs() > {edge}).sum())",
        reply="{output} rows lie that far from the mean.",
        nouns=("the <number> of <rows> whose {c} lies more than {e} <std0>s from its <mean>",),
        asks=(
            "Standardise {c} (minus its <mean>, divided by its <std>). How many z-scores are beyond {e} in size?",
            "How many <rows> have a z-score of {c} (<std>) above {e} or below -{e}?",
        ),
        slots={"c": setting.say(column), "e": plain(edge)},
    )


FAMILIES = (
    Family("count_rows", 1, count_rows),
    Family("aggregate", 1, aggregate),
    Family("distinct_count", 1, distinct_count),
    Family("filter_count", 1, filter_count),
    Family("filter_aggregate", 2, filter_aggregate),
    Family("share", 2, share),
    Family("percentile", 2, percentile),
    Family("ratio", 2, ratio),
    Family("z_scores", 3, z_scores),
)
