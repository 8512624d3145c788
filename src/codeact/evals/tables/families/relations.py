"""How columns go together: correlation, a line, bins, outliers."""

from __future__ import annotations

import statistics

from codeact.evals.tables.families.shared import at, measured, plain, quoted, shown
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading, rounded
from codeact.evals.tables.table import Column, quantile
from codeact.evals.task import LabelCheck, NumberCheck


def _pairs(one: Column, two: Column) -> tuple[list[float], list[float]]:
    """The rows that have both numbers."""
    both = zip(one.values, two.values, strict=True)
    kept = [(float(a), float(b)) for a, b in both if isinstance(a, int | float) and isinstance(b, int | float)]
    return [a for a, _ in kept], [b for _, b in kept]


def correlation(setting: Setting) -> Draft | None:
    one = setting.number()
    two = setting.number(one)
    value = statistics.correlation(*_pairs(one, two))
    if abs(value) < 0.01 or abs(value) > 0.9995:
        return None
    digits = setting.rng.choice((2, 3))
    return Draft(
        checks=(NumberCheck(value=rounded(value), digits=digits),),
        reference=(loading(setting.table.file), shown(f"{at(one)}.corr({at(two)})", digits)),
        reply="The correlation is {output}.",
        nouns=(
            "the [Pearson |]correlation [between|of] {a} and {b}",
            "the correlation coefficient [of|for] {a} and {b}",
            "Pearson's r [of|between] {a} and {b}",
        ),
        asks=(
            "How strongly [are|do] {a} and {b} [correlated|correlate]?",
            "Do {a} and {b} go hand in hand? Give [the correlation|Pearson's r].",
            "Is there a linear relation between {a} and {b}? Give [the correlation|Pearson's r].",
            "How closely does {a} follow {b}, as a correlation?",
        ),
        slots={"a": setting.say(one), "b": setting.say(two)},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.rounding(digits),
    )


def strongest_partner(setting: Setting) -> Draft | None:
    of = setting.number()
    others = [c for c in setting.table.of("number") if c is not of and len(set(c.values)) >= 5]
    if not of.whole or len(others) < 2 or any(c.name.lower() == of.name.lower() for c in others):
        return None
    found = sorted(((abs(statistics.correlation(*_pairs(of, c))), c.name) for c in others), reverse=True)
    if found[0][0] - found[1][0] < 0.01:
        return None
    names = tuple(c.name for c in others)
    if any(len(name) < 2 or name.lower() in {"or", "in", "is", "no"} for name in names):
        return None
    listed = ", ".join(quoted(name) for name in names)
    return Draft(
        checks=(LabelCheck(label=found[0][1], choices=names),),
        reference=(
            loading(setting.table.file),
            f"others = [{listed}]\nprint(df[others].corrwith({at(of)}).abs().idxmax())",
        ),
        reply="It is {output}.",
        nouns=("the column among {o} that correlates most strongly with {c}, up or down,",),
        asks=(
            "Which of {o} has the strongest correlation with {c}[, whatever its sign|, positive or negative]?",
            "Among {o}, which column tells most about {c} (largest absolute correlation)?",
            "What goes along with {c} most closely (by absolute correlation): {o}?",
        ),
        slots={"c": f"'{of.name}'", "o": ", ".join(names)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def line_fit(setting: Setting) -> Draft | None:
    x = setting.number()
    y = setting.number(x)
    xs, ys = _pairs(x, y)
    if len(xs) < len(setting.table):
        return None
    slope, intercept = statistics.linear_regression(xs, ys)
    ask_slope = setting.rng.random() < 0.4
    place = float(f"{quantile(xs, setting.rng.choice((0.2, 0.4, 0.6, 0.8))):.3g}")
    value = slope if ask_slope else slope * place + intercept
    if abs(value) < 1e-3:
        return None
    check, digits = measured(setting, value)
    expression = "slope" if ask_slope else f"slope * {plain(place)} + intercept"
    asks = (
        ("By how much does {y} change when {x} grows by one, by a straight line fitted with least squares?",
         "Fit a line for {y} over {x} (least squares). How steep is it?",
         "Regress {y} on {x} (ordinary least squares) and give the coefficient of {x}.")
        if ask_slope else
        ("Fit a straight line (least squares) for {y} over {x}. What does it predict for {p}?",
         "By a linear regression of {y} on {x}, what {y} [is to be expected|would you expect] at {x} = {p}?",
         "Predict {y} where {x} is {p}, with a simple linear regression on all <rows>.")
    )  # fmt: skip
    return Draft(
        checks=(check,),
        reference=(
            loading(setting.table.file),
            f"import numpy as np\nslope, intercept = np.polyfit({at(x)}, {at(y)}, 1)\n" + shown(expression, digits),
        ),
        reply="The line gives {output}.",
        nouns=("the slope of the least squares line of {y} over {x}",) if ask_slope else (),
        asks=asks,
        slots={"x": setting.say(x), "y": setting.say(y), "p": plain(place)},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.rounding(digits),
    )


def outliers(setting: Setting) -> Draft | None:
    of = setting.number(distinct=12)
    low, high = quantile(of.numbers, 0.25), quantile(of.numbers, 0.75)
    reach = 1.5 * (high - low)
    if reach == 0 or any(min(abs(n - low + reach), abs(n - high - reach)) < 1e-9 for n in of.numbers):
        return None
    value = sum(n < low - reach or n > high + reach for n in of.numbers)
    return Draft(
        checks=(NumberCheck(value=value, exact=True),),
        reference=(
            loading(setting.table.file),
            f"c = {at(of)}\nlow, high = c.quantile(0.25), c.quantile(0.75)\nreach = 1.5 * (high - low)\n"
            "print(((c < low - reach) | (c > high + reach)).sum())",
        ),
        reply="There are {output} outliers.",
        nouns=(
            "the <number> of <outliers> in {c} (more than 1.5 times the interquartile range beyond the quartiles)",
            "the <number> of values of {c} outside the whiskers of a box plot (1.5 IQR)",
        ),
        asks=(
            "How many <outliers> does {c} have by the rule of 1.5 interquartile ranges?",
            "By the 1.5 IQR rule, how many values of {c} are <outliers>?",
            "How many <rows> are more than 1.5 IQR below the first or above the third quartile of {c}?",
        ),
        slots={"c": setting.say(of)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def bins(setting: Setting) -> Draft | None:
    """How many rows fall between two numbers, both of which no row holds."""
    of = setting.number(distinct=15)
    values = sorted(set(of.numbers))
    cut = sorted(setting.rng.sample(range(1, len(values) - 1), 2))
    low, high = ((values[i] + values[i + 1]) / 2 for i in cut)
    low, high = float(f"{low:.4g}"), float(f"{high:.4g}")
    if low >= high or low in values or high in values:
        return None
    value = sum(low < n < high for n in of.numbers)
    percent = setting.rng.random() < 0.3
    check, digits = NumberCheck(value=value, exact=True), None
    if percent:
        check, digits = measured(setting, 100 * value / len(of.numbers))
        if not of.whole:
            return None
    inside = f"{at(of)}.between({plain(low)}, {plain(high)})"
    return Draft(
        checks=(check,),
        reference=(
            loading(setting.table.file),
            shown(f"{inside}.mean() * 100", digits) if percent else f"print({inside}.sum())",
        ),
        reply="{output} % of the rows." if percent else "{output} rows.",
        nouns=("the <share> of <rows> with {c} between {x} and {y}",) if percent
        else ("the <number> of <rows> with {c} between {x} and {y}",),
        asks=("What percentage of the <rows> has {c} between {x} and {y}?",
              "How many percent of {c} lie from {x} to {y}?") if percent
        else ("How many <rows> have {c} between {x} and {y}?", "How many values of {c} lie from {x} to {y}?",
              "Count the <rows> whose {c} is over {x} but under {y}."),
        slots={"c": setting.say(of), "x": plain(low), "y": plain(high)},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.rounding(digits),
    )  # fmt: skip


FAMILIES = (
    Family("correlation", 2, correlation),
    Family("strongest_partner", 3, strongest_partner),
    Family("line_fit", 3, line_fit),
    Family("outliers", 3, outliers),
    Family("bins", 2, bins),
)
