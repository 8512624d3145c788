"""Several files: joins, what has no partner, parts of one table, JSON."""

from __future__ import annotations

import json
import math

from codeact.evals.tables import made
from codeact.evals.tables.families.shared import measured, quoted, shown
from codeact.evals.tables.family import Draft, Family, Setting, rounded
from codeact.evals.tables.table import Cell, clear_extreme, csv_bytes
from codeact.evals.task import File, LabelCheck, NumberCheck, SetCheck

_AREAS = ("north", "coast", "valley", "city", "lake", "plain")
_PAIRS = (
    ("customers.csv", "orders.csv", "customer", "area", "amount"),
    ("stores.csv", "sales.csv", "store", "area", "revenue"),
    ("members.csv", "payments.csv", "member", "town", "fee"),
    ("machines.csv", "repairs.csv", "machine", "hall", "cost"),
    ("suppliers.csv", "deliveries.csv", "supplier", "county", "weight"),
    ("authors.csv", "articles.csv", "author", "desk", "words"),
)
_Rows = list[tuple[Cell, ...]]


def _two(setting: Setting, lonely: bool) -> tuple[tuple[str, str, str, str, str], _Rows, _Rows]:
    """Things with an area, and what happened to them. ``lonely``: some things have nothing, some events no thing."""
    rng = setting.rng
    names = rng.choice(_PAIRS)
    things = [f"{names[2][0].upper()}{rng.randint(1, 9)}{number:02}" for number in range(rng.randint(8, 20))]
    areas = rng.sample(_AREAS, 3)
    left: _Rows = [(thing, areas[i % 3]) for i, thing in enumerate(things)]
    busy = things[: len(things) * 2 // 3] if lonely else things
    right: _Rows = []
    for number in range(rng.randint(30, 120)):
        thing = rng.choice(busy) if not lonely or rng.random() < 0.93 else f"{names[2][0].upper()}9{number % 3}9x"
        right.append((1000 + number, thing, round(rng.uniform(3, 400), 2)))
    return names, left, right


def _files(names: tuple[str, str, str, str, str], left: _Rows, right: _Rows, other_key: str) -> tuple[File, ...]:
    return (
        File(name=names[0], data=csv_bytes([names[2], names[3]], left)),
        File(name=names[1], data=csv_bytes(["no", other_key, names[4]], right)),
    )


def _reading(names: tuple[str, str, str, str, str], other_key: str) -> tuple[str, str]:
    first = (
        f"import pandas as pd\nleft = pd.read_csv({quoted(names[0])})\nright = pd.read_csv({quoted(names[1])})\n"
        "print(left.head(2), right.head(2))"
    )
    on = (
        f"on={quoted(names[2])}"
        if other_key == names[2]
        else f"left_on={quoted(other_key)}, right_on={quoted(names[2])}"
    )
    return first, f"both = right.merge(left, {on})\n"


def join_total(setting: Setting) -> Draft:
    names, left, right = _two(setting, lonely=False)
    key = setting.rng.choice((names[2], f"{names[2]}_id", "key"))
    area_of: dict[Cell, Cell] = {thing: area for thing, area in left}
    area = setting.rng.choice(sorted({str(a) for _, a in left}))
    value = math.fsum(float(v) for _, thing, v in right if area_of[thing] == area and isinstance(v, float))
    check, digits = measured(setting, value)
    first, merge = _reading(names, key)
    return Draft(
        checks=(check,),
        reference=(
            first,
            merge + shown(f"both.loc[both[{quoted(names[3])}] == {quoted(area)}, {quoted(names[4])}].sum()", digits),
        ),
        reply="It comes to {output}.",
        asks=(
            "{l} has the {a} of each {t}, {r} the {v}. What is the <sum> of {v} for the {a} {x}?",
            "<join> {r} and {l} on the {t}. How much {v} [belongs to|falls to] the {a} {x}[ in all|]?",
            "What does {v} (in {r}) add up to for all {t}s whose {a}, in {l}, is {x}?",
            "Two files: {l} and {r}. <find> the <sum> of {v} over all {t}s of the {a} {x}.",
        ),
        slots={"l": names[0], "r": names[1], "t": names[2], "a": names[3], "v": names[4], "x": area},
        files=_files(names, left, right, key),
        ending=setting.words.rounding(digits),
        table="made/pair",
    )


def join_best(setting: Setting) -> Draft | None:
    names, left, right = _two(setting, lonely=False)
    key = setting.rng.choice((names[2], f"{names[2]}_id", "key"))
    area_of: dict[Cell, Cell] = {thing: area for thing, area in left}
    found: dict[str, list[float]] = {}
    for _, thing, value in right:
        found.setdefault(str(area_of[thing]), []).append(float(value or 0))
    mean = setting.rng.random() < 0.4
    sizes = {area: math.fsum(v) / (len(v) if mean else 1) for area, v in found.items()}
    highest = setting.rng.random() < 0.5
    best = clear_extreme(sizes, highest)
    if best is None:
        return None
    word, end = ("mean" if mean else "sum"), ("high" if highest else "low")
    first, merge = _reading(names, key)
    return Draft(
        checks=(LabelCheck(label=best, choices=tuple(sorted(sizes))),),
        reference=(
            first,
            merge + f"by = both.groupby({quoted(names[3])})[{quoted(names[4])}].{word}()\n"
            f"print(by.{'idxmax' if highest else 'idxmin'}())",
        ),
        reply="It is {output}.",
        asks=(
            f"{{l}} says which {{a}} a {{t}} belongs to, {{r}} has the {{v}}. Which {{a}} has the <{end}> <{word}> of {{v}}?",
            f"<join> {{l}} with {{r}}: for which {{a}} is the <{word}> of {{v}} <{end}>?",
            f"By {{a}} (in {{l}}), where is the <{word}> of {{v}} (in {{r}}) <{end}>?",
        ),
        slots={"l": names[0], "r": names[1], "t": names[2], "a": names[3], "v": names[4]},
        files=_files(names, left, right, key),
        table="made/pair",
    )


def unmatched(setting: Setting) -> Draft | None:
    names, left, right = _two(setting, lonely=True)
    used = {thing for _, thing, _ in right}
    alone = tuple(str(thing) for thing, _ in left if thing not in used)
    if not alone:
        return None
    first, _ = _reading(names, names[2])
    asks: tuple[str, ...] = (
        "Which {t}s of {l} do not occur in {r} at all?[ List them.| Name all of them.]",
        "List every {t} in {l} that has no <row> in {r}.",
        "What leftovers are there: {t}s of {l} without any <row> in {r}?",
    )
    count = setting.rng.random() < 0.5
    column = f"left[{quoted(names[2])}]"
    alone_code = f"alone = {column}[~{column}.isin(right[{quoted(names[2])}])]\n"
    if count:
        asks = ("How many {t}s of {l} do not occur in {r}?", "How many {t}s in {l} have no <row> in {r}?")
    return Draft(
        checks=(NumberCheck(value=len(alone), exact=True),) if count
        else (SetCheck(labels=alone, choices=tuple(str(thing) for thing, _ in left)),),
        reference=(first, alone_code + ("print(len(alone))" if count else "print(', '.join(alone))")),
        reply="These have none: {output}." if not count else "{output} have none.",
        asks=asks,
        slots={"l": names[0], "r": names[1], "t": names[2]},
        files=_files(names, left, right, names[2]),
        table="made/pair",
    )  # fmt: skip


def many_files(setting: Setting) -> Draft:
    """One table in parts."""
    table = setting.made(rows=(30, 120))
    theme = table.name.partition("/")[2]
    parts = setting.rng.randint(3, 6)
    style = setting.rng.choice(("{t}_{i}.csv", "{t}_part{i}.csv", "part_{i}.csv", "{t}_2023_0{i}.csv"))
    names = [c.name for c in table.columns]
    rows = list(table.rows)
    cuts = sorted(setting.rng.sample(range(1, len(rows)), parts - 1))
    pieces = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    files = tuple(
        File(name=style.format(t=theme, i=i), data=csv_bytes(names, piece)) for i, piece in enumerate(pieces, 1)
    )
    column = setting.rng.choice(table.of("number"))
    word = setting.rng.choice(("sum", "mean", "rows"))
    reading = (
        "import glob\nimport pandas as pd\n"
        f"files = sorted(glob.glob({quoted(style.format(t=theme, i='*').replace('0*', '0*'))}))\nprint(files)"
    )
    whole = "df = pd.concat([pd.read_csv(f) for f in files])\n"
    if word == "rows":
        check, digits, code = NumberCheck(value=len(rows), exact=True), None, "print(len(df))"
        asks: tuple[str, ...] = (
            "How many <rows> do the files {x} have together?",
            "Put {x} together: how many <rows> are that in all?",
            "Stack {x}. How many <rows>?",
        )
    else:
        check, digits = measured(setting, math.fsum(column.numbers) / (1 if word == "sum" else len(rows)))
        code = shown(f"df[{quoted(column.name)}].{word}()", digits)
        asks = (
            f"The table is split into {{x}}. What is the <{word}> of {{c}} over all of them?",
            f"Put {{x}} together and <find0> the <{word}> of {{c}}.",
            f"What is the <{word}> of {{c}} in {{x}} together?",
            f"Take all {{k}} files ({{x}}) as one table: <find0> the <{word}> of {{c}}.",
        )
    spoken = setting.rng.choice((
        ", ".join(f.name for f in files[:-1]) + f" and {files[-1].name}",
        f"{files[0].name} to {files[-1].name}",
        f"{files[0].name}, {files[1].name} and so on up to {files[-1].name}",
    ))  # fmt: skip
    return Draft(
        checks=(check,),
        reference=(reading, whole + code),
        reply="All together it is {output}.",
        asks=asks,
        slots={"x": spoken, "c": setting.words.column(column, table), "k": str(parts)},
        files=files,
        ending=setting.words.rounding(digits),
        table=table.name,
    )


def nested_json(setting: Setting) -> Draft | None:
    """Records in JSON, with numbers one level down."""
    table = setting.made(rows=(15, 60))
    name, label = table.of("id")[0], setting.rng.choice(table.of("label"))
    of = setting.rng.choice(table.of("number"))
    key = setting.rng.choice(("records", "items", "data", "results"))
    inner = setting.rng.choice(("details", "values", "info"))
    columns = [made.slug(c.name) for c in (name, label, of)]
    data = [
        {columns[0]: n, columns[1]: lab, inner: {columns[2]: v}}
        for n, lab, v in zip(name.values, label.values, of.values, strict=True)
    ]
    file = table.file.replace(".csv", ".json")
    chosen = setting.rng.choice(label.labels)
    numbers = [float(v) for v, lab in zip(of.values, label.values, strict=True) if lab == chosen and v is not None]
    word = setting.rng.choice(("sum", "mean", "high"))
    if not numbers:
        return None
    value = {"sum": math.fsum(numbers), "mean": math.fsum(numbers) / len(numbers), "high": max(numbers)}[word]
    check, digits = measured(setting, value)
    if word == "high":
        check, digits = NumberCheck(value=rounded(value)), None
    code = {"sum": "sum(n)", "mean": "sum(n) / len(n)", "high": "max(n)"}[word]
    return Draft(
        checks=(check,),
        reference=(
            f"import json\ndata = json.load(open({quoted(file)}))\nprint(str(data)[:300])",
            f"n = [r[{quoted(inner)}][{quoted(columns[2])}] for r in data[{quoted(key)}] "
            f"if r[{quoted(columns[1])}] == {quoted(chosen)}]\n" + shown(code, digits),
        ),
        reply="The result is {output}.",
        nouns=(f"the <{word}> of {{c}} for {{b}} {{l}}",),
        asks=(
            f"What is the <{word}> of {{c}} where {{b}} is {{l}}?",
            f"It is JSON. <find> the <{word}> of {{c}} among the <rows> whose {{b}} is {{l}}.",
        ),
        slots={"c": columns[2], "b": columns[1], "l": chosen},
        files=(File(name=file, data=json.dumps({"source": "made", key: data}, indent=1).encode()),),
        file=file,
        ending=setting.words.rounding(digits),
        table=table.name,
    )


FAMILIES = (
    Family("join_total", 2, join_total, "own"),
    Family("join_best", 3, join_best, "own"),
    Family("unmatched", 3, unmatched, "own"),
    Family("many_files", 2, many_files, "made"),
    Family("nested_json", 2, nested_json, "made"),
)
