"""Groups of rows and what tells them apart."""

from __future__ import annotations

from codeact.evals.tables.families.shared import MIDDLE, STATISTICS, at, measured, quoted, shown
from codeact.evals.tables.family import Draft, Family, Setting, csv_file, loading, rounded
from codeact.evals.tables.table import Cell, Column, clear_extreme, counts, groups
from codeact.evals.task import Check, File, FrameCheck, LabelCheck, MappingCheck, NumberCheck, SetCheck


def _grouped(setting: Setting) -> tuple[Column, Column, str, dict[str, float]]:
    """Labels, numbers, a word for the statistic, and its value for each label."""
    by, of = setting.label(), setting.number()
    word = setting.rng.choice(MIDDLE)
    found = {label: STATISTICS[word][1](numbers) for label, numbers in groups(by, of).items()}
    return by, of, word, found


def group_extreme(setting: Setting) -> Draft | None:
    by, of, word, found = _grouped(setting)
    highest = setting.rng.random() < 0.5
    label = clear_extreme(found, highest)
    if label is None:
        return None
    end, method = ("high" if highest else "low"), STATISTICS[word][0]
    adjective = setting.words.extreme(of, setting.table, highest)
    asks: tuple[str, ...] = (
        f"Which {{b}} has the <{end}> <{word}> of {{c}}?",
        f"Which {{b}} has the <{end}> <{word}> {{c}}?",
        f"For which {{b}} is the <{word}> of {{c}} <{end}>?",
        f"Compare the <{word}> of {{c}} between the values of {{b}}: which one is <{end}>?",
        f"Group by {{b}}. Which <group> has the <{end}> <{word}> of {{c}}?",
        f"In terms of <{word}> {{c}}, which {{b}} [comes first|is in front|wins|tops the others]?" if highest
        else f"In terms of <{word}> {{c}}, which {{b}} [comes last|is at the end|loses|trails the others]?",
        f"Sort the values of {{b}} by <{word}> {{c}}; name the one that is <{end}>.",
        f"Where is the <{word}> of {{c}} <{end}>, by {{b}}?",
    )  # fmt: skip
    if adjective and word == "mean":
        asks += (f"Which {{b}} is {adjective} on average?", f"On average, which {{b}} is [the |]{adjective}?")
    return Draft(
        checks=(LabelCheck(label=label, choices=by.labels),),
        reference=(
            loading(setting.table.file),
            f"by = df.groupby({quoted(by.name)})[{quoted(of.name)}].{method}()\nprint(by.{'idxmax' if highest else 'idxmin'}())",
        ),
        reply=f"{{output}} has the {'highest' if highest else 'lowest'} {method} of {of.name}.",
        nouns=(f"the {{b}} with the <{end}> <{word}> of {{c}}", f"the {{b}} whose <{word}> {{c}} is <{end}>"),
        asks=asks,
        slots={"b": setting.say(by), "c": setting.say(of)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def group_table(setting: Setting) -> Draft | None:
    by, of, word, found = _grouped(setting)
    if len(found) > 6 or len(found) < len(by.labels):
        return None
    method = STATISTICS[word][0]
    return Draft(
        checks=(MappingCheck(values={k: rounded(v) for k, v in found.items()}, choices=by.labels),),
        reference=(
            loading(setting.table.file),
            f"by = df.groupby({quoted(by.name)})[{quoted(of.name)}].{method}()\n"
            "for name, value in by.items():\n    print(f'{name}: {value:.6g}')",
        ),
        reply=f"The {method} of {of.name}:\n{{output}}",
        nouns=(
            f"the <{word}> of {{c}} for <each> {{b}}",
            f"the <{word}> {{c}} by {{b}}",
            f"the <{word}> {{c}} per {{b}}",
        ),
        asks=(
            f"List the <{word}> of {{c}} for <each> {{b}}.",
            f"How does the <{word}> of {{c}} differ between the values of {{b}}? Give all of them.",
            f"Break down {{c}} by {{b}}: give the <{word}> of each.",
            f"For <each> {{b}}, what is the <{word}> of {{c}}?",
        ),
        slots={"b": setting.say(by), "c": setting.say(of)},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.say("[ Name each with its number.| One per line, please.| Give every one.]"),
    )


def most_common(setting: Setting) -> Draft | None:
    by = setting.label()
    often = setting.rng.random() < 0.6
    found = {label: float(count) for label, count in counts(by.values).items()}
    label = clear_extreme(found, often)
    if label is None:
        return None
    word = "<common>" if often else "[least common|rarest|least frequent]"
    return Draft(
        checks=(LabelCheck(label=label, choices=by.labels),),
        reference=(
            loading(setting.table.file),
            f"counts = {at(by)}.value_counts()\nprint(counts.{'idxmax' if often else 'idxmin'}())",
        ),
        reply=f"{{output}} is the {'most' if often else 'least'} common {by.name}.",
        nouns=(f"the {word} value of {{b}}", f"the {word} {{b}}", "the {b} with the " + ("most" if often else "fewest") + " <rows>"),
        asks=(
            f"Which value of {{b}} is {word}?",
            "Which {b} [occurs|comes up|is found] " + ("most often?" if often else "least often?"),
            "Which {b} has the " + ("most <rows>?" if often else "fewest <rows>?"),
            "Which {b} do we see " + ("more than any other?" if often else "less than any other?"),
        ),
        slots={"b": setting.say(by)},
        files=csv_file(setting.table),
        file=setting.table.file,
    )  # fmt: skip


def share_of_total(setting: Setting) -> Draft | None:
    by, of = setting.label(), setting.number()
    sums = {label: sum(numbers) for label, numbers in groups(by, of).items()}
    if min(of.numbers) < 0 or not sum(of.numbers) or not of.whole:
        return None
    label = setting.rng.choice(sorted(sums))
    check, digits = measured(setting, 100 * sums[label] / sum(of.numbers))
    return Draft(
        checks=(check,),
        reference=(
            loading(setting.table.file),
            f"by = df.groupby({quoted(by.name)})[{quoted(of.name)}].sum()\n"
            + shown(f"by[{quoted(label)}] / by.sum() * 100", digits),
        ),
        reply=f"{label} has {{output}} % of the total.",
        nouns=("the <share> of the total of {c} that [belongs to|falls to|comes from] {l} ({b})",),
        asks=(
            "What percentage of the total of {c} [comes from|is due to|falls to] {l} (in {b})?",
            "How many percent of all {c} [does {l} make up|is {l}'s], by {b}?",
            "{l} is one {b}. How much of the sum of {c} does it hold, in percent?",
        ),
        slots={"b": setting.say(by), "c": setting.say(of), "l": label},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.rounding(digits),
    )


def group_difference(setting: Setting) -> Draft | None:
    by, of, word, found = _grouped(setting)
    one, two = setting.rng.sample(sorted(found), 2)
    if found[one] == found[two]:
        return None
    check, digits = measured(setting, abs(found[one] - found[two]))
    method = STATISTICS[word][0]
    return Draft(
        checks=(check,),
        reference=(
            loading(setting.table.file),
            f"by = df.groupby({quoted(by.name)})[{quoted(of.name)}].{method}()\n"
            + shown(f"abs(by[{quoted(one)}] - by[{quoted(two)}])", digits),
        ),
        reply="The difference is {output}.",
        nouns=(f"the [absolute |]difference between {{l}} and {{m}} ({{b}}) in <{word}> {{c}}",
               f"the <{word}> of {{c}} of {{l}} against that of {{m}} ({{b}}), as a positive difference,"),
        asks=(
            f"By how much does the <{word}> of {{c}} differ between {{l}} and {{m}} ({{b}})?",
            f"Compare {{l}} with {{m}} ({{b}}): how large is the <difference> in <{word}> {{c}}?",
            f"How far apart are {{l}} and {{m}} ({{b}}) in the <{word}> of {{c}}?",
            f"What is the gap in <{word}> {{c}} between {{l}} and {{m}} ({{b}})?",
        ),
        slots={"b": setting.say(by), "c": setting.say(of), "l": one, "m": two},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.rounding(digits),
    )  # fmt: skip


def groups_above(setting: Setting) -> Draft | None:
    by, of, word, found = _grouped(setting)
    ordered = sorted(found.values())
    place = setting.rng.randrange(1, len(ordered)) if len(ordered) > 2 else 0
    low, high = ordered[place - 1], ordered[place]
    if not place or high - low < 0.05 * abs(high):
        return None
    limit = float(f"{(low + high) / 2:.3g}")
    names = tuple(sorted(label for label, value in found.items() if value > limit))
    if not low < limit < high:
        return None
    method = STATISTICS[word][0]
    return Draft(
        checks=(SetCheck(labels=names, choices=by.labels),),
        reference=(
            loading(setting.table.file),
            f"by = df.groupby({quoted(by.name)})[{quoted(of.name)}].{method}()\nprint(', '.join(by[by > {limit}].index))",
        ),
        reply="These are: {output}.",
        nouns=(f"the list of all {{b}} with a <{word}> of {{c}} <above> {{x}}",),
        asks=(
            f"Which values of {{b}} have a <{word}> {{c}} <above> {{x}}?",
            f"Name every {{b}} whose <{word}> of {{c}} is <above> {{x}}.",
            f"Group by {{b}}; which <group>s have a <{word}> of {{c}} <above> {{x}}?",
            f"List the {{b}} values for which the <{word}> of {{c}} exceeds {{x}}.",
        ),
        slots={"b": setting.say(by), "c": setting.say(of), "x": f"{limit:.10g}"},
        files=csv_file(setting.table),
        file=setting.table.file,
        ending=setting.words.say("[ Only these.| Name no others.| Just their names.]"),
    )


def cross_count(setting: Setting) -> Draft | None:
    one, two = setting.rng.sample(setting.table.of("label"), 2)
    a, b = setting.rng.choice(one.labels), setting.rng.choice(two.labels)
    value = sum(x == a and y == b for x, y in zip(one.values, two.values, strict=True))
    return Draft(
        checks=(NumberCheck(value=value, exact=True),),
        reference=(
            loading(setting.table.file),
            f"both = ({at(one)} == {quoted(a)}) & ({at(two)} == {quoted(b)})\nprint(both.sum())",
        ),
        reply="{output} rows have both.",
        nouns=("the <number> of <rows> [where|in which] {c} is {a} and {d} is {b}",),
        asks=(
            "How many <rows> have {a} as {c} and {b} as {d}?",
            "Count the <rows> with {c} {a} and, at the same time, {d} {b}.",
            "How often do {a} ({c}) and {b} ({d}) come together?",
            "Of the <rows> whose {c} is {a}, how many have {d} {b}?",
        ),
        slots={"c": setting.say(one), "d": setting.say(two), "a": a, "b": b},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


def pivot(setting: Setting) -> Draft | None:
    """A cross table of two columns of labels, written to a file."""
    one, two = setting.rng.sample(setting.table.of("label"), 2)
    of = setting.number()
    word = setting.rng.choice(("mean", "sum"))
    method, compute = STATISTICS[word]
    cells: dict[tuple[Cell, Cell], list[float]] = {}
    for x, y, v in zip(one.values, two.values, of.values, strict=True):
        if isinstance(v, int | float):
            cells.setdefault((x, y), []).append(float(v))
    if len(cells) < len(one.labels) * len(two.labels) or len(cells) > 40:
        return None
    rows = tuple((x, *(rounded(compute(cells[x, y])) for y in two.labels)) for x in one.labels)
    file = setting.rng.choice(("pivot.csv", "cross.csv", "result.csv", "table.csv", "summary.csv"))
    check: Check = FrameCheck(file=file, columns=(one.name, *two.labels), rows=rows)
    return Draft(
        checks=(check,),
        reference=(
            loading(setting.table.file),
            f"pivot = df.pivot_table(index={quoted(one.name)}, columns={quoted(two.name)}, values={quoted(of.name)}, "
            f"aggfunc={quoted(method)})\npivot.to_csv({quoted(file)})\nprint(pivot)",
        ),
        reply=f"The table is saved in {file}.",
        asks=(
            f"Make a pivot table: one row for <each> {{a}}, one column for <each> {{b}}, the <{word}> of {{c}} in the cells. "
            "<save> it as {f}.",
            f"Cross {{a}} (rows) with {{b}} (columns) and fill in the <{word}> of {{c}}. The result goes into {{f}}.",
            f"<save> a CSV file {{f}} with the <{word}> of {{c}} by {{a}} (down) and {{b}} (across).",
            f"I need {{f}}: a cross table of {{a}} down and {{b}} across, showing the <{word}> {{c}}.",
        ),
        slots={"a": setting.say(one), "b": setting.say(two), "c": setting.say(of), "f": file},
        files=(File(name=setting.table.file, data=setting.table.csv()),),
        file=setting.table.file,
        ending=f" Its first column is called {one.name}.",
    )


def summary_file(setting: Setting) -> Draft | None:
    """Counts and a statistic of each group, written to a file in an order."""
    by, of, word, found = _grouped(setting)
    if len({f"{value:.4g}" for value in found.values()}) < len(found) or len(found) < len(by.labels):
        return None
    method = STATISTICS[word][0]
    sizes = {label: len(numbers) for label, numbers in groups(by, of).items()}
    down = setting.rng.random() < 0.6
    order = sorted(found, key=lambda label: found[label], reverse=down)
    file = setting.rng.choice(("summary.csv", "groups.csv", "result.csv", "overview.csv"))
    return Draft(
        checks=(
            FrameCheck(
                file=file,
                columns=(by.name, "n", "value"),
                rows=tuple((label, sizes[label], rounded(found[label])) for label in order),
                ordered=True,
            ),
        ),
        reference=(
            loading(setting.table.file),
            f'out = df.groupby({quoted(by.name)})[{quoted(of.name)}].agg(n="count", value="{method}").reset_index()\n'
            f'out = out.sort_values("value", ascending={not down})\nout.to_csv({quoted(file)}, index=False)\nprint(out)',
        ),
        reply=f"The summary is saved in {file}.",
        asks=(
            f"<save> a file {{f}} with one row for <each> {{b}} and the columns {{bn}}, n (how many <rows> with {{c}}) and value "
            f"(the <{word}> of {{c}}), sorted by value, {'largest' if down else 'smallest'} first.",
            f"Summarise {{c}} by {{b}} into {{f}}: columns {{bn}}, n (the count) and value (the <{word}>), "
            f"{'descending' if down else 'ascending'} by value.",
        ),
        slots={"b": setting.say(by), "bn": by.name, "c": setting.say(of), "f": file},
        files=csv_file(setting.table),
        file=setting.table.file,
    )


FAMILIES = (
    Family("group_extreme", 2, group_extreme),
    Family("group_table", 2, group_table),
    Family("most_common", 1, most_common),
    Family("share_of_total", 2, share_of_total),
    Family("group_difference", 2, group_difference),
    Family("groups_above", 3, groups_above),
    Family("cross_count", 2, cross_count),
    Family("pivot", 3, pivot),
    Family("summary_file", 3, summary_file),
)
