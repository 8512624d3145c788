"""Pictures saved to a file, some with a question besides."""

from __future__ import annotations

import math

from codeact.evals.tables.families.shared import at, quoted
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading
from codeact.evals.tables.table import clear_extreme, groups
from codeact.evals.task import LabelCheck, PictureCheck

_NAMES = ("plot.png", "figure.png", "picture.png", "out.png", "graph.png", "result.png", "fig1.png")


def bar_picture(setting: Setting) -> Draft | None:
    table, by, of = setting.table, setting.label(), setting.number()
    means = {label: math.fsum(v) / len(v) for label, v in groups(by, of).items()}
    best = clear_extreme(means, highest=True)
    if best is None or not all(v > 0 for v in means.values()):
        return None
    file = setting.rng.choice(_NAMES)
    also = setting.rng.random() < 0.5
    checks = (
        (PictureCheck(file=file), LabelCheck(label=best, choices=by.labels)) if also else (PictureCheck(file=file),)
    )
    return Draft(
        checks=checks,
        reference=(
            loading(table.file),
            f"import matplotlib.pyplot as plt\nby = df.groupby({quoted(by.name)})[{quoted(of.name)}].mean()\n"
            f"ax = by.plot.bar()\nax.set_ylabel({quoted(of.name)})\nplt.tight_layout()\nplt.savefig({quoted(file)})\n"
            "print(by.idxmax())",
        ),
        reply=f"The bars are saved as {file}; {{output}} has the highest." if also else f"The bars are saved as {file}.",
        asks=(
            "<draw> a bar <plot> of the <mean> {c} for <each> {b} and save it as {f}.",
            "Show the <mean> of {c} by {b} as bars; the picture goes into {f}.",
            "I need a picture {f} with one bar for <each> {b}, as high as its <mean> {c}.",
            "Bars, please: <mean> of {c} per {b}. <save> them as {f}.",
        ),
        slots={"b": setting.say(by), "c": setting.say(of), "f": file},
        files=csv_file(table),
        file=table.file,
        ending=setting.words.say(
            "[ Which {b} has the highest bar?| Tell me which bar is highest.| And which {b} is in front?]", b=by.name
        ) if also else "",
    )  # fmt: skip


def scatter_picture(setting: Setting) -> Draft:
    table, x = setting.table, setting.number()
    y = setting.number(x)
    file = setting.rng.choice(_NAMES)
    return Draft(
        checks=(PictureCheck(file=file),),
        reference=(
            loading(table.file),
            f"import matplotlib.pyplot as plt\nplt.scatter({at(x)}, {at(y)})\nplt.xlabel({quoted(x.name)})\n"
            f"plt.ylabel({quoted(y.name)})\nplt.savefig({quoted(file)})",
        ),
        reply=f"The points are saved as {file}.",
        asks=(
            "<draw> {y} against {x} as points and save the <plot> as {f}.",
            "Make a scatter <plot> of {x} and {y}; save it as {f}.",
            "I would like to see how {y} depends on {x}: a scatter <plot>, please, saved as {f}.",
            "One dot for <each> <row>, {x} to the right, {y} upwards. <save> it as {f}.",
        ),
        slots={"x": setting.say(x), "y": setting.say(y), "f": file},
        files=csv_file(table),
        file=table.file,
    )


def histogram_picture(setting: Setting) -> Draft:
    table, column = setting.table, setting.number()
    file = setting.rng.choice(_NAMES)
    bins = setting.rng.choice((5, 8, 10, 12, 15, 20))
    return Draft(
        checks=(PictureCheck(file=file),),
        reference=(
            loading(table.file),
            f"import matplotlib.pyplot as plt\nplt.hist({at(column)}.dropna(), bins={bins})\n"
            f"plt.xlabel({quoted(column.name)})\nplt.savefig({quoted(file)})",
        ),
        reply=f"The histogram is saved as {file}.",
        asks=(
            "<draw> a histogram of {c} with {n} bins and save it as {f}.",
            "How is {c} distributed? Save a histogram ({n} bins) as {f}.",
            "<save> a histogram of {c} as {f}[; use {n} bins| ({n} bins)].",
            "Show the distribution of {c} in a <plot> {f}, with {n} bins.",
        ),
        slots={"c": setting.say(column), "f": file, "n": str(bins)},
        files=csv_file(table),
        file=table.file,
    )


def line_picture(setting: Setting) -> Draft:
    table = setting.made(rows=(60, 240))
    day, of = table.of("date")[0], setting.rng.choice(table.of("number"))
    file = setting.rng.choice(_NAMES)
    return Draft(
        checks=(PictureCheck(file=file),),
        reference=(
            loading(table.file, look=False, arguments=f", parse_dates=[{quoted(day.name)}]") + "\nprint(df.dtypes)",
            "import matplotlib.pyplot as plt\n"
            f'month = {at(day)}.dt.strftime("%Y-%m")\n{at(of)}.groupby(month).sum().plot(rot=60)\n'
            f"plt.tight_layout()\nplt.savefig({quoted(file)})",
        ),
        reply=f"The line is saved as {file}.",
        asks=(
            "<draw> the monthly <sum> of {c} as a line (days are in {d}) and save it as {f}.",
            "How did {c} develop, month by month? A line <plot> of the monthly <sum>, saved as {f}.",
            "<save> a line <plot> of {c} over time, summed by month of {d}, as {f}.",
        ),
        slots={"c": setting.words.column(of, table), "d": setting.words.column(day, table), "f": file},
        files=csv_file(table),
        file=table.file,
        table=table.name,
    )


FAMILIES = (
    Family("bar_picture", 2, bar_picture),
    Family("scatter_picture", 1, scatter_picture),
    Family("histogram_picture", 1, histogram_picture),
    Family("line_picture", 2, line_picture, "made"),
)
