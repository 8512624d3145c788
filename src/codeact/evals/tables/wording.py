"""How a task is put into words: a small grammar, and the words that it chooses from.

In a template ``[a|b]`` is one of several ways, ``<name>`` a word of ``LEXICON`` and ``{slot}`` what the family fills in.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from codeact.evals.heldout import words_in
from codeact.evals.tables.table import Column, Table

LEXICON: Mapping[str, str] = {
    "high": "highest|largest|greatest|biggest|maximum|peak|leading",
    "low": "lowest|smallest|minimum|tiniest|bottommost",
    "mean": "mean|average|arithmetic mean|avg",
    "median": "median|middle value|midmost value",
    "sum": "sum|total|overall total|grand total|sum total",
    "std": "sample standard deviation|standard deviation (of a sample, n - 1)|sample std",
    "rows": "rows|records|entries|lines|observations|cases",
    "row": "row|record|entry|line",
    "number": "number|count|amount|tally",
    "share": "percentage|share in percent|percent share|proportion in percent|fraction in percent|portion in percent",
    "difference": "difference|distance|gap|discrepancy",
    "find": "Find|Compute|Determine|Calculate|Work out|Get|Report|Tell me|Give me|Ascertain|Establish|Figure out",
    "need": "I need|I would like to know|I want|I am looking for|We need|My question is about",
    "please": "|please |kindly ",
    "group": "group|category|class|level",
    "each": "each|every",
    "different": "different|distinct|unique",
    "missing": "missing|empty|absent|not filled in|blank",
    "duplicate": "duplicate|doubled|duplicated|repeated",
    "save": "Save|Write|Store|Export|Dump",
    "plot": "plot|figure|picture|graph|chart",
    "draw": "Draw|Plot|Make|Produce|Visualise",
    "clean": "clean|clean up|repair|correct|tidy|scrub",
    "outliers": "outliers|extreme values|values that stick out|oddballs",
    "common": "most common|most frequent|most often seen|commonest|modal",
    "above": "above|greater than|larger than|more than|over",
    "below": "below|less than|smaller than|under",
    "join": "Match|Combine|Join|Merge|Link up",
}
"""Words by what they stand for; the held-out ones stand among them and are told apart by ``heldout``."""

ADJECTIVES: Mapping[str, tuple[str, str]] = {
    "price": ("most expensive|costliest|priciest|dearest", "cheapest|least expensive|most affordable"),
    "cost": ("most expensive|costliest", "cheapest|least costly"),
    "weight": ("heaviest|weightiest|bulkiest", "lightest"),
    "age": ("oldest|most aged", "youngest"),
    "height": ("tallest|highest", "shortest|lowest"),
    "pay": ("best paid|highest earning|top earning", "worst paid|lowest earning"),
    "speed": ("fastest|speediest|quickest", "slowest"),
    "temperature": ("hottest|warmest", "coldest|coolest"),
    "length": ("longest", "shortest"),
    "duration": ("longest|most lengthy", "shortest|briefest"),
    "distance": ("farthest|most distant", "nearest|closest"),
    "sales": ("best-selling|most sold", "worst-selling|least sold"),
    "score": ("best rated|best scoring", "worst rated|worst scoring"),
    "depth": ("deepest", "shallowest"),
    "area": ("largest|most extensive", "smallest"),
    "width": ("widest|broadest", "narrowest"),
}
"""For each concept the adjectives of its two ends."""

NOUNS: Mapping[str, str] = {
    "price": "price|asking price|price tag", "cost": "cost|expense", "weight": "weight|mass", "age": "age|years of age",
    "height": "height", "pay": "pay|earnings|salary", "speed": "speed|velocity", "temperature": "temperature|warmth",
    "length": "length", "duration": "duration|time taken", "distance": "distance|way covered",
    "sales": "sales|units sold", "score": "score|rating", "depth": "depth", "area": "area|surface", "width": "width",
}  # fmt: skip

_LEADS = (
    "{q}", "{q}", "Using {file}: {q}", "In {file}: {q}", "Look at {file}. {q}", "Open {file}. {q}", "Read {file}. {q}",
    "The data is in {file}. {q}", "{file} holds [the data|a table|our figures]. {q}", "From {file}, answer this: {q}",
    "[Have a look at|Take] the [table|data|file] {file}. {q}", "I have put {file} into [the workspace|your folder]. {q}",
)  # fmt: skip
_TAILS = ("{q} (file: {file})", "{q} The file is {file}.", "{q} [Use|Kindly use] {file}.", "{q} The data: {file}")
_TERSE = ("{file}: {n}", "{n} in {file}?", "{n} ({file})", "{file} - {n}?", "{n}, from {file}", "{file} -> {n}")
_CHATTY: tuple[str, ...] = (
    "[Hi|Hello|Hey|Good morning]! [I am working on a report|We talked about this at lunch|I am new to this data]"
    " and [have|got] a question about {file}. {q} [Thanks!|Many thanks.|Thank you in advance.|Kindly be quick.|]",
    "[Could you help me?|A quick one:|Quick question.|Can you check something?] {q} [It is all in|See|The data is in]"
    " {file}.[ Thanks!| No hurry.|]",
    "[My boss|A colleague|A customer|My teacher] [asked me|wants to know] something about {file}. {q}"
    "[ I could not find it by hand.| I only need the result.|]",
)
_DISTRACTION = (
    "[The file was made last week.|It was exported from our old system.|Somebody sent it by mail.]",
    "[There are more columns than you need.|Not every column matters here.|Ignore what you do not need.]",
    "[A plot is not needed.|You need not explain how.|Keep the answer short.|One sentence is enough.]",
    "[We will look at the rest tomorrow.|Later I will have more questions.|This is for the meeting at noon.]",
)
_ASKED = (
    "What is {n}?", "<find> {n}.", "Please <find0> {n}.", "Can you <find0> {n}?", "<need> {n}.", "What would {n} be?",
    "I wonder: what is {n}?", "Let me know {n}.", "Do you know {n}?", "How about {n}?", "What do you get for {n}?",
)  # fmt: skip
_ROUND = {
    1: "[ Round to one decimal.| One decimal, please.| Give one digit after the point.]",
    2: "[ Round to two decimals.| Two decimals, please.| (rounded to 2 decimal places)| Give two decimal places.]",
    3: "[ Round to three decimals.| Three decimals, please.| (to 3 decimal places)]",
}


class Words:
    """Makes texts. ``held_out``: choose held-out words wherever there are some; otherwise never."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def say(self, template: str, **slots: str) -> str:
        """One text of a template. Slots are filled in last and are not looked into."""
        text = re.sub(r"<(\w+?)(0?)>", self._word, template)
        while (found := _innermost(text)) is not None:
            start, end = found
            text = text[:start] + self._choose(text[start + 1 : end].split("|")) + text[end + 1 :]
        text = re.sub(r"(?<=\S)  +", " ", text).strip() if "{" in text else text
        return re.sub(r"\{(\w+)\}", lambda match: slots.get(match[1], match[0]), text)

    def _word(self, match: re.Match[str]) -> str:
        chosen = self._choose(LEXICON[match[1]].split("|"))
        return chosen[:1].lower() + chosen[1:] if match[2] else chosen

    def _choose(self, ways: Sequence[str]) -> str:
        novel = [way for way in ways if words_in(way)]
        known = [way for way in ways if not words_in(way)]
        if self.held_out and novel:
            return self.rng.choice(novel)
        return self.rng.choice(known)

    def one(self, templates: Sequence[str]) -> str:
        """One template that may be used: in the held-out words' split preferably one that can hold such a word."""
        novel = [template for template in templates if words_in(_opened(template))]
        if self.held_out and novel and self.rng.random() < 0.8:
            return self.rng.choice(novel)
        return self.rng.choice(_known(templates))

    # --- parts that all families share ---

    def column(self, column: Column, table: Table) -> str:
        """A column as somebody would name it: exactly, or as words where no other column could be meant."""
        draw = self.rng.random()
        if column.concept and draw < 0.35:
            return self._choose(NOUNS[column.concept].split("|"))
        spoken = spoken_name(column.name)
        if spoken != column.name and draw < 0.65 and [spoken_name(c.name) for c in table.columns].count(spoken) == 1:
            return spoken
        return self.rng.choice(("{}", "{}", "'{}'", '"{}"', "`{}`", "the column {}", "the {} column")).format(
            column.name
        )

    def extreme(self, column: Column, table: Table, highest: bool) -> str:
        """``heaviest``, where there is an adjective, or ``with the largest weight``: what follows the thing named."""
        if column.concept and self.rng.random() < 0.5:
            return self._choose(ADJECTIVES[column.concept][not highest].split("|"))
        return ""

    def question(self, table: str, nouns: Sequence[str], asks: Sequence[str], slots: Mapping[str, str]) -> str:
        """The whole question: a noun phrase in one of many frames, or a sentence of the family's own."""
        file = self.rng.choice(("{}", "{}", "{}", "`{}`", "'{}'", "the file {}")).format(table)
        style: Literal["plain", "terse", "chatty", "distracted"]
        style = self.rng.choice(("plain", "plain", "plain", "terse", "chatty", "distracted"))
        if _known(nouns) and (not asks or self.rng.random() < 0.5):
            noun = self.say(self.one(nouns), **slots)
            if style == "terse" and table:
                return self.say(self.rng.choice(_TERSE), n=noun.rstrip(","), file=file)
            sentence = self.say(self.rng.choice(_ASKED), n=noun)
        else:
            sentence = self.say(self.one(asks), **slots)
        sentence = _capital(re.sub(r",+\s*(?=[.?,])", "", sentence).strip())
        if not table:
            wrap = self.rng.choice(
                ("{q}", "{q}", "[Hi!|Hello!|A small task:|Please help:|Kindly help:] {q}", "{q} [Thanks.|Please.]")
            )
            return self.say(wrap, q=sentence)
        if style == "chatty":
            return self.say(self.rng.choice(_CHATTY), q=sentence, file=file)
        if table in sentence:
            return sentence
        frames = [frame for frame in (*_LEADS, *_TAILS) if "{file}" in frame]
        text = self.say(self.rng.choice(frames), q=sentence, file=file)
        text = _capital(text)
        if style == "distracted":
            odd = self.say(self.rng.choice(_DISTRACTION))
            text = f"{odd} {text}" if self.rng.random() < 0.5 else f"{text} {odd}"
        return text

    def rounding(self, digits: int | None) -> str:
        return self.say(_ROUND[digits]) if digits else ""


def spoken_name(name: str) -> str:
    """``unit_price``, ``unit.price``, ``UnitPrice``: unit price."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[_. ]+", " ", spaced).strip().lower()


def _capital(sentence: str) -> str:
    """Begun with a capital, unless it begins with the name of a file."""
    return sentence if "." in sentence.partition(" ")[0].rstrip(".,:") else sentence[:1].upper() + sentence[1:]


def _innermost(text: str) -> tuple[int, int] | None:
    end = text.find("]")
    return None if end < 0 else (text.rindex("[", 0, end), end)


def _known(templates: Sequence[str]) -> list[str]:
    """Those that can be said without a held-out word."""
    return [template for template in templates if not words_in(re.sub(r"\[[^\]]*\]", "", template))]


def _opened(template: str) -> str:
    """A template with all the words that it can come to."""
    return re.sub(r"<(\w+?)0?>", lambda match: LEXICON[match[1]], template)
