"""The generator: the same tasks everywhere, many ways to put them, and nothing of what is held out in training."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codeact.errors import UsageError
from codeact.evals import heldout
from codeact.evals.tables import family_names, make_task, real, tasks
from codeact.evals.tables import made as made_tables
from codeact.evals.tables.choose import choose
from codeact.evals.tables.families import families
from codeact.evals.tables.family import Draft, Family, Setting
from codeact.evals.tables.generate import question
from codeact.evals.tables.wording import LEXICON, Words
from codeact.evals.task import SPLITS, Task

MANY = 290
"""Training tasks that are looked at: five of each family."""


@pytest.fixture(scope="module")
def training() -> list[Task]:
    return list(tasks("train", 11, MANY))


def fingerprint(made: Iterator[Task]) -> str:
    return hashlib.sha256("\n".join(task.model_dump_json() for task in made).encode()).hexdigest()


PRINT = """
import hashlib, sys
from codeact.evals.tables import tasks
made = tasks("train", 3, 58)
sys.stdout.write(hashlib.sha256("\\n".join(task.model_dump_json() for task in made).encode()).hexdigest())
"""


def test_another_process_makes_the_same_bytes() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "77", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == fingerprint(tasks("train", 3, 58)), done.stderr


def test_seeds_and_numbers_make_other_tasks() -> None:
    questions = {(seed, task.question) for seed in (1, 2) for task in tasks("train", seed, 60)}
    assert len(questions) == 120


def test_a_task_is_the_same_with_and_without_a_filter() -> None:
    every = {task.id: task for task in tasks("train", 4, 58)}
    (alone,) = tasks("train", 4, 1, only=["pivot"])
    assert every[alone.id] == alone and alone.family == "pivot"
    assert all(task.level == 3 for task in tasks("train", 4, 5, level=3))


def test_a_task_turns_into_json_and_back(training: list[Task]) -> None:
    for task in training[:58]:
        assert Task.model_validate_json(task.model_dump_json()) == task


def test_there_are_families_enough_of_every_level() -> None:
    names = family_names("train")
    assert len(names) >= 25
    assert {families()[name].level for name in names} == {1, 2, 3}
    assert all(len(family_names(split)) >= 6 for split in SPLITS)
    kinds = {check.type for name in names for check in make_one(name).checks}
    assert kinds >= {"number", "label", "set", "mapping", "numbers", "date", "frame", "picture", "function", "variable"}


def make_one(name: str) -> Task:
    (task,) = tasks("train", 0, 1, only=[name])
    return task


def drafted(family: Family, number: int) -> Draft:
    """A draft that nothing is left to choose in but the wording."""
    for attempt in range(100):
        rng = random.Random(f"{number} {attempt}")
        setting = Setting(rng, Words(rng), made_tables.make("orders", rng), ("orders",))
        try:
            draft = family.build(setting)
        except (IndexError, ValueError):
            continue
        if draft is not None:
            return draft
    raise AssertionError(family.name)


def test_each_family_is_put_in_many_ways() -> None:
    """One and the same task, with what the table fills in fixed, is asked in hundreds of ways."""
    for number, name in enumerate(family_names("train")):
        draft = drafted(families()[name], number)
        asked = [question(draft, Words(random.Random(f"{name} {again}"))) for again in range(400)]
        bare = {re.sub(r"['\"`]", "", text) for text in asked}
        assert len(bare) >= 100, (name, len(bare))


def test_a_question_is_whole(training: list[Task]) -> None:
    for task in training:
        bare = task.question.replace("[[", "").replace("], [", "")
        assert not re.search(r"[<\[{]\w|\w[>}]|\|[^|]*\||  |,,|\(\)", bare), task.question
        named = [file.name for file in task.files]
        assert not named or any(name in task.question for name in named), task.question
        assert len({file.name for file in task.files}) == len(named)


# --- what is held out -------------------------------------------------------------------------------------------------


def test_training_holds_nothing_that_is_held_out(training: list[Task]) -> None:
    assert not heldout.FAMILIES & {task.family for task in training}
    assert not heldout.TABLES & {task.table for task in training}
    for task in training:
        assert heldout.words_in(task.question) == set(), task.question


def test_the_held_out_splits_hold_what_they_are_named_after() -> None:
    assert {task.table for task in tasks("held-out-tables", 1, 100)} <= heldout.TABLES
    assert all(heldout.words_in(task.question) for task in tasks("held-out-words", 1, 100))
    assert {task.family for task in tasks("held-out-families", 1, 12)} == heldout.FAMILIES
    assert not heldout.TABLES & {task.table for task in tasks("held-out-words", 1, 60)}


def test_what_is_held_out_exists() -> None:
    assert set(families()) >= heldout.FAMILIES
    made = {f"made/{theme}" for theme in made_tables.THEMES}
    assert {*real.names(), *made} >= heldout.TABLES
    said = " ".join(LEXICON.values()).lower()
    assert len({word for word in heldout.WORDS if word in said}) >= 20


def test_words_are_told_apart_whatever_their_case() -> None:
    assert heldout.words_in("The PEAK and the Grand Total") == {"peak", "grand total"}
    assert heldout.words_in("speaks of a ranking") == set()


def test_the_grammar_keeps_to_its_words() -> None:
    plain, novel = Words(random.Random(1)), Words(random.Random(1), held_out=True)
    assert {plain.say("<high>") for _ in range(200)} == {"highest", "largest", "greatest", "biggest", "maximum"}
    assert {novel.say("<high>") for _ in range(200)} == {"peak", "leading"}
    assert plain.say("[a [b|b]|a b] {x}", x="[c|d]") == "a b [c|d]"


# --- tables ---------------------------------------------------------------------------------------------------------


def test_the_list_of_tables_is_what_the_rule_chooses() -> None:
    assert 200 <= len(real.names()) <= 500 and list(real.names()) == sorted(real.names())
    for name in real.names():
        assert len(real.load(name).columns) >= 3  # raises where the rule no longer takes it
    for package in ("carData", "HSAUR"):
        listed = {name for name in real.names() if name.startswith(f"{package}/")}
        assert len(listed) > 5 and listed <= set(choose(package))


def test_no_table_of_the_demo_is_among_them(training: list[Task]) -> None:
    """The demo is over vega_datasets' cars; neither these nor other tables of that package are ours."""
    from vega_datasets import data

    theirs = {tuple(sorted(name.lower() for name in json.loads(Path(data.cars.filepath).read_text())[0]))}
    ours = {tuple(sorted(c.name.lower() for c in real.load(name).columns)) for name in real.names()}
    assert not theirs & ours
    foreign = ("iris", "penguins", "gapminder", "barley", "Auto", "mtcars", "movies", "airquality_cars")
    assert not [name for name in real.names() if name.partition("/")[2] in foreign]
    from examples.demo import TASK

    assert all(TASK != task.question and "cars.csv" not in [f.name for f in task.files] for task in training)


def test_an_unknown_split_or_family_is_said() -> None:
    with pytest.raises(UsageError, match="there is no split 'test'"):
        list(tasks("test", 0, 1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no family 'rolling_peak'"):
        list(tasks("train", 0, 1, only=["rolling_peak"]))
    with pytest.raises(UsageError, match="no such family of level 1"):
        list(tasks("train", 0, 1, only=["pivot"], level=1))


def test_numbers_make_tasks_on_their_own() -> None:
    assert make_task("train", 3, 7) == list(tasks("train", 3, 8))[7]
