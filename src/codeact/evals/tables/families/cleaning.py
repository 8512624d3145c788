"""Data that is not as it looks: numbers written as text, missing values, duplicates, words in several spellings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from codeact.evals.tables.families.shared import MIDDLE, STATISTICS, at, measured, quoted, shown
from codeact.evals.tables.family import Draft, Family, Setting, loading, rounded
from codeact.evals.tables.table import Cell, Column, Table, clear_extreme, counts, csv_bytes
from codeact.evals.task import Check, File, FrameCheck, LabelCheck, NumberCheck, SetCheck, VariableCheck


def _with(table: Table, column: Column, values: list[Cell]) -> tuple[File, ...]:
    """The table's file with other values in one column."""
    changed = dataclasses.replace(column, values=tuple(values))
    columns = tuple(changed if c is column else c for c in table.columns)
    return (File(name=table.file, data=dataclasses.replace(table, columns=columns).csv()),)


def text_numbers(setting: Setting) -> Draft | None:
    """Numbers with currency signs, units, thousands separators or percent signs."""
    table = setting.made()
    column = setting.rng.choice(table.of("number"))
    forms: tuple[tuple[Callable[[float], str], str], ...] = (
        (lambda v: f"${v:,.10g}", r"[$,]"),
        (lambda v: f"{v:.10g} EUR", r"[^0-9.]"),
        (lambda v: f"{v:,.10g}", ","),
        (lambda v: f"{v:.10g} units", r"[^0-9.]"),
        (lambda v: f"~{v:.10g}", "~"),
        (lambda v: f"{v:.10g}%", "%"),
        (lambda v: f" {v:,.10g} ", r"[ ,]"),
    )
    write, remove = setting.rng.choice(forms)
    if "," in remove and max(column.numbers) < 1000:
        write, remove = forms[3]
    word = setting.rng.choice((*MIDDLE, "high"))
    method, compute = STATISTICS[word]
    check, digits = measured(setting, compute(column.numbers))
    if word == "high":
        check, digits = NumberCheck(value=check.value), None
    return Draft(
        checks=(check,),
        reference=(
            loading(table.file) + "\nprint(df.dtypes)",
            f"c = {at(column)}.astype(str).str.replace(r{quoted(remove)}, \"\", regex=True).astype(float)\n"
            + shown(f"c.{method}()", digits),
        ),
        reply=f"The {method} of {column.name} is {{output}}.",
        nouns=(f"the <{word}> of {{c}}", f"the <{word}> {{c}}"),
        asks=(
            f"The column {{x}} is text. Turn it into numbers: what is the <{word}>?",
            f"<clean> {{c}} and then <find0> its <{word}>.",
            f"{{c}} is written with signs around the numbers. What is the <{word}> of the numbers?",
        ),
        slots={"c": setting.words.column(column, table), "x": column.name},
        files=_with(table, column, [write(number) for number in column.numbers]),
        file=table.file,
        ending=setting.words.rounding(digits),
        table=table.name,
    )  # fmt: skip


def _holes(setting: Setting, table: Table, column: Column, share: float) -> list[Cell]:
    gone = set(setting.rng.sample(range(len(table)), max(2, int(share * len(table)))))
    return [None if row in gone else value for row, value in enumerate(column.values)]


def missing_count(setting: Setting) -> Draft:
    table = setting.made()
    column = setting.rng.choice(table.of("number") + table.of("label"))
    values = _holes(setting, table, column, setting.rng.uniform(0.03, 0.3))
    return Draft(
        checks=(NumberCheck(value=values.count(None), exact=True),),
        reference=(loading(table.file), f"print({at(column)}.isna().sum())"),
        reply=f"{column.name} has {{output}} missing values.",
        nouns=("the <number> of <missing> values in {c}", "how many values of {c} are <missing>"),
        asks=(
            "How many values [of|in] {c} are <missing>?",
            "How many <rows> [have no|lack a|are without a] value in {c}?",
            "In how many <rows> [has nobody filled in|is there nothing in] {c}?",
            "Count the <missing> [entries|values|cells] [of|in] {c}.",
            "How many values of {c} have vanished?",
        ),
        slots={"c": setting.words.column(column, table)},
        files=_with(table, column, values),
        file=table.file,
        table=table.name,
    )


def missing_most(setting: Setting) -> Draft:
    table = setting.made()
    chosen = setting.rng.sample(table.of("number") + table.of("label"), 3)
    shares = (0.3, 0.15, 0.06)
    holes = {c.name: tuple(_holes(setting, table, c, share)) for c, share in zip(chosen, shares, strict=True)}
    columns = tuple(dataclasses.replace(c, values=holes.get(c.name, c.values)) for c in table.columns)
    return Draft(
        checks=(LabelCheck(label=chosen[0].name, choices=tuple(c.name for c in table.columns)),),
        reference=(loading(table.file), "print(df.isna().sum().idxmax())"),
        reply="The column {output} lacks most.",
        nouns=("the column with the most <missing> values", "the name of the column that has most <missing> cells"),
        asks=(
            "Which column has the most <missing> values?",
            "Which column is filled in worst?",
            "In which column do we lack the most values?",
            "Count the <missing> cells column by column: where are the most?",
            "Name the [least complete column|column with the most gaps].",
        ),
        files=(File(name=table.file, data=dataclasses.replace(table, columns=columns).csv()),),
        file=table.file,
        table=table.name,
    )


def missing_filled(setting: Setting) -> Draft:
    """The mean after missing values were filled in."""
    table = setting.made()
    column = setting.rng.choice(table.of("number"))
    values = _holes(setting, table, column, setting.rng.uniform(0.05, 0.3))
    known = [float(v) for v in values if isinstance(v, int | float)]
    how = setting.rng.choice(("zero", "median", "largest"))
    filling = {"zero": 0.0, "median": STATISTICS["median"][1](known), "largest": max(known)}[how]
    full = [float(v) if isinstance(v, int | float) else filling for v in values]
    check, digits = measured(setting, STATISTICS["mean"][1](full))
    code = {"zero": "0", "median": "c.median()", "largest": "c.max()"}[how]
    words = {"zero": "[zero|0]", "median": "the <median> of the others", "largest": "the <high> of the others"}[how]
    return Draft(
        checks=(check,),
        reference=(loading(table.file), f"c = {at(column)}\n" + shown(f"c.fillna({code}).mean()", digits)),
        reply="After that the mean is {output}.",
        nouns=(f"the <mean> of {{c}} after its <missing> values are replaced by {words}",),
        asks=(
            f"Fill the <missing> values of {{c}} with {words}. What is the <mean> then?",
            f"What would the <mean> of {{c}} be if every <missing> value were {words}?",
            f"Replace what is <missing> in {{c}} by {words}, then give the <mean>.",
        ),
        slots={"c": setting.words.column(column, table)},
        files=_with(table, column, values),
        file=table.file,
        ending=setting.words.rounding(digits),
        table=table.name,
    )


def duplicates(setting: Setting) -> Draft:
    table = setting.made(rows=(30, 120))
    rows = list(table.rows)
    extra = [setting.rng.choice(rows) for _ in range(setting.rng.randint(2, 15))]
    every = rows + extra
    setting.rng.shuffle(every)
    kept = setting.rng.random() < 0.5
    return Draft(
        checks=(NumberCheck(value=len(rows) if kept else len(extra), exact=True),),
        reference=(
            loading(table.file),
            "print(len(df.drop_duplicates()))" if kept else "print(df.duplicated().sum())",
        ),
        reply="{output} rows are left." if kept else "{output} rows are duplicates.",
        nouns=("the <number> of <rows> after all <duplicate> ones are removed", "the <number> of <different> <rows>")
        if kept
        else ("the <number> of <rows> that repeat an earlier one in every column",),
        asks=(
            "How many <rows> are left when <duplicate> ones are dropped?",
            "Remove every <row> that is an exact copy of an earlier one. How many [are left|remain]?",
            "Some <rows> are in there twice or more. How many <different> ones are there?",
            "How many <rows> has the file without its twins?",
        )
        if kept
        else (
            "How many <rows> are exact copies of an earlier <row>?",
            "How many <duplicate> <rows> would be dropped, if the first of each stays?",
            "Count the <rows> that have been there before, word for word.",
        ),
        files=(File(name=table.file, data=csv_bytes([c.name for c in table.columns], every)),),
        file=table.file,
        table=table.name,
    )


def _spoilt(setting: Setting, column: Column) -> list[Cell]:
    """The labels in several spellings: case, space around."""
    forms: tuple[Callable[[str], str], ...] = (str, str, str.upper, str.lower, lambda t: f" {t}", lambda t: f"{t}  ")
    return [setting.rng.choice(forms)(str(value)) for value in column.values]


def spellings(setting: Setting) -> Draft | None:
    table = setting.made()
    column = setting.rng.choice(table.of("label"))
    label = clear_extreme({k: float(v) for k, v in counts(column.values).items()}, highest=True)
    clean = f"{at(column)}.str.strip().str.lower()"
    count = setting.rng.random() < 0.5
    if label is None and not count:
        return None
    checks: tuple[Check, ...]
    if count:
        wanted = setting.rng.choice(column.labels)
        checks = (NumberCheck(value=column.values.count(wanted), exact=True),)
        code, reply = f"print(({clean} == {quoted(wanted.lower())}).sum())", "There are {output}."
        asks: tuple[str, ...] = (
            f"{{c}} is spelt in several ways (capitals, spaces). How many <rows> mean {wanted}?",
            f"How many <rows> have {wanted} in {{c}}, whatever the capitals and spaces around it?",
            f"<clean> {{c}} (case, spaces); how often does {wanted} occur?",
        )
        nouns: tuple[str, ...] = (f"the <number> of <rows> with {wanted} as {{c}}, however it is spelt",)
    else:
        assert label is not None
        checks = (LabelCheck(label=label, choices=column.labels),)
        code, reply = f"print({clean}.value_counts().idxmax())", "It is {output}."
        asks = (
            "{c} is spelt in several ways (capitals, spaces). Which value is <common> once that is repaired?",
            "Ignoring case and space around it, what is the <common> value of {c}?",
            "Which {c} is <common>, if different spellings of one word count together?",
        )
        nouns = ("the <common> value of {c}, case and spaces aside",)
    return Draft(
        checks=checks,
        reference=(loading(table.file) + f"\nprint({at(column)}.unique())", code),
        reply=reply,
        nouns=nouns,
        asks=asks,
        slots={"c": setting.words.column(column, table)},
        files=_with(table, column, _spoilt(setting, column)),
        file=table.file,
        table=table.name,
    )


def odd_columns(setting: Setting) -> Draft:
    """Column names with spaces, signs and units."""
    table = setting.made()
    column = setting.rng.choice(table.of("number"))
    odd = setting.rng.choice(("  {} ", "{} (total)", "{} [net]", "#{}", "{}/unit", "{} - final", "{}?", "Sum: {}"))
    names = [odd.format(c.name) if c is column else c.name for c in table.columns]
    name = odd.format(column.name)
    word = setting.rng.choice(MIDDLE)
    method, compute = STATISTICS[word]
    check, digits = measured(setting, compute(column.numbers))
    return Draft(
        checks=(check,),
        reference=(
            loading(table.file) + "\nprint(list(df.columns))",
            shown(f"df[{quoted(name)}].{method}()", digits),
        ),
        reply=f"The {method} is {{output}}.",
        nouns=(f"the <{word}> of {{c}}", f"the <{word}> {{c}}", f"the <{word}> in the column about {{c}}"),
        asks=(
            f"What is the <{word}> of {{c}}? Mind the column's odd name.",
            f"The columns have strange names. <find> the <{word}> of the one for {{c}}.",
        ),
        slots={"c": column.name.strip()},
        files=(File(name=table.file, data=csv_bytes(names, table.rows)),),
        file=table.file,
        ending=setting.words.rounding(digits),
        table=table.name,
    )


def separators(setting: Setting) -> Draft:
    """Semicolons or tabs between the values, decimal commas."""
    table = setting.made()
    column = setting.rng.choice(table.of("number"))
    separator, decimal = setting.rng.choice(((";", ","), (";", "."), ("\t", "."), ("|", "."), (";", ",")))
    word = setting.rng.choice(MIDDLE)
    method, compute = STATISTICS[word]
    check, digits = measured(setting, compute(column.numbers))
    arguments = f", sep={quoted(separator)}" + (', decimal=","' if decimal == "," else "")
    return Draft(
        checks=(check,),
        reference=(
            f"print(open({quoted(table.file)}).read()[:300])",
            loading(table.file, look=False, arguments=arguments) + "\n" + shown(f"{at(column)}.{method}()", digits),
        ),
        reply=f"The {method} of {column.name} is {{output}}.",
        nouns=(f"the <{word}> of {{c}}", f"the <{word}> {{c}}"),
        asks=(
            f"The values are not separated by commas. What is the <{word}> of {{c}}?",
            f"<find> the <{word}> of {{c}}; look at how the file is written first.",
            f"It comes from [a European spreadsheet|another program]. What is the <{word}> of {{c}}?",
        ),
        slots={"c": setting.words.column(column, table)},
        files=(File(name=table.file, data=table.csv(separator, decimal)),),
        file=table.file,
        ending=setting.words.rounding(digits),
        table=table.name,
    )


def labels_listed(setting: Setting) -> Draft:
    """The different words of a column with spellings repaired."""
    table = setting.made()
    column = setting.rng.choice(table.of("label"))
    clean = f"{at(column)}.str.strip().str.lower()"
    return Draft(
        checks=(SetCheck(labels=column.labels, choices=column.labels),),
        reference=(loading(table.file), f"print(', '.join(sorted({clean}.unique())))"),
        reply="They are {output}.",
        nouns=("a list of the <different> values of {c}, case and spaces aside,",),
        asks=(
            "Which <different> values does {c} have, when capitals and spaces around are ignored? List them all.",
            "<clean> the spelling of {c} and list its <different> values.",
            "List each value of {c} once, whatever its spelling (case, spaces).",
        ),
        slots={"c": setting.words.column(column, table)},
        files=_with(table, column, _spoilt(setting, column)),
        file=table.file,
        table=table.name,
    )


def clean_file(setting: Setting) -> Draft:
    """Duplicates dropped, rows with a missing number dropped, words repaired: all into a new file."""
    table = setting.made(rows=(20, 60))
    label, number = setting.rng.choice(table.of("label")), setting.rng.choice(table.of("number"))
    name = table.of("id")[0]
    holes = _holes(setting, table, number, 0.12)
    spelt = _spoilt(setting, label)
    rows = [[n, s, v] for n, s, v in zip(name.values, spelt, holes, strict=True)]
    every = rows + [setting.rng.choice(rows) for _ in range(setting.rng.randint(1, 6))]
    kept = tuple(
        (str(n), str(lab).lower(), rounded(float(v)))
        for n, lab, v in zip(name.values, label.values, holes, strict=True)
        if isinstance(v, int | float)
    )
    file = setting.rng.choice(("clean.csv", "cleaned.csv", "result.csv", "fixed.csv"))
    names = (name.name, label.name, number.name)
    return Draft(
        checks=(FrameCheck(file=file, columns=names, rows=kept),),
        reference=(
            loading(table.file),
            f"{at(label)} = {at(label)}.str.strip().str.lower()\n"
            f"df = df.drop_duplicates().dropna(subset=[{quoted(number.name)}])\n"
            f"df.to_csv({quoted(file)}, index=False)\nprint(len(df))",
        ),
        reply=f"The repaired table is in {file}; it has {{output}} rows.",
        asks=(
            "<clean> the table: drop <duplicate> <rows>, drop <rows> without {v}, and write {c} in lower case without "
            "spaces around it. <save> it as {f}.",
            "[Make|Produce] {f} from it: no <duplicate> <rows>, no <rows> where {v} is <missing>, {c} trimmed and in lower "
            "case. Keep all columns.",
            "Three things to repair: <rows> that are there twice, <rows> with no {v}, and the spelling of {c} (trim it, "
            "lower case). <save> the rest as {f}.",
        ),
        slots={"v": number.name, "c": label.name, "f": file},
        files=(File(name=table.file, data=csv_bytes(names, every)),),
        file=table.file,
        table=table.name,
    )


def kept_variable(setting: Setting) -> Draft:
    """A frame without rows that lack a number, left in a variable."""
    table = setting.made()
    column = setting.rng.choice(table.of("number"))
    values = _holes(setting, table, column, setting.rng.uniform(0.05, 0.4))
    name = setting.rng.choice(("clean", "kept", "complete", "rest", "good_rows"))
    count = len(values) - values.count(None)
    return Draft(
        checks=(VariableCheck(name=name, rows=count), NumberCheck(value=count, exact=True)),
        reference=(loading(table.file), f"{name} = df.dropna(subset=[{quoted(column.name)}])\nprint(len({name}))"),
        reply=f"{name} holds {{output}} rows.",
        asks=(
            "Drop the <rows> where {c} is <missing> and keep the rest as a DataFrame called {n}. How many <rows> does it have?",
            "Leave a DataFrame {n} behind with only the <rows> that have a value for {c}, and tell me its <number> of <rows>.",
            "I want a variable {n}: the table without the <rows> that lack {c}. How many <rows> are in it?",
        ),
        slots={"c": setting.words.column(column, table), "n": name},
        files=_with(table, column, values),
        file=table.file,
        table=table.name,
    )


FAMILIES = (
    Family("text_numbers", 2, text_numbers, "made"),
    Family("missing_count", 1, missing_count, "made"),
    Family("missing_most", 1, missing_most, "made"),
    Family("missing_filled", 2, missing_filled, "made"),
    Family("duplicates", 1, duplicates, "made"),
    Family("spellings", 2, spellings, "made"),
    Family("odd_columns", 2, odd_columns, "made"),
    Family("separators", 2, separators, "made"),
    Family("labels_listed", 2, labels_listed, "made"),
    Family("clean_file", 3, clean_file, "made"),
    Family("kept_variable", 2, kept_variable, "made"),
)
