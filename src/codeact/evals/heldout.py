"""What is held out of training for good, by name: tables, words and families of tasks.

Whoever changes a name here makes every earlier result incomparable: add at the end, take nothing away. No task of the
split ``train`` is over such a table, holds such a word or is of such a family; a test says so.
"""

from __future__ import annotations

import re

TABLES = frozenset(
    {
        "AER/SwissLabor", "AER/TravelMode", "DAAG/cuckoos", "DAAG/possum", "Ecdat/Housing", "HSAUR/skulls",
        "MASS/painters", "MASS/Pima.tr2", "Stat2Data/FaithfulFaces", "Stat2Data/MusicTime",
        "Stat2Data/NFL2007Standings", "Stat2Data/Pollster08", "Stat2Data/SandwichAnts", "Stat2Data/ThreeCars",
        "Stat2Data/WalkTheDogs", "carData/Baumann", "carData/Davis", "carData/Duncan", "carData/States",
        "mosaicData/CPS85", "mosaicData/SwimRecords", "openintro/births14", "openintro/cpu", "openintro/duke_forest",
        "openintro/hsb2", "openintro/marathon", "stevedata/election_turnout", "vcd/Arthritis",
        "made/ships", "made/wines", "made/loans", "made/satellites",
    }
)  # fmt: skip
"""Real tables as ``package/item``; made ones as ``made/theme``."""

WORDS = frozenset(
    {
        "peak", "leading", "tiniest", "bottommost", "avg", "tally", "export", "dump", "ascertain", "figure out",
        "establish", "observations", "cases", "fraction", "portion", "gap", "discrepancy", "spread out", "per head",
        "rank", "tops", "trails", "chart", "visualise", "grand total", "sum total", "span", "vanished", "blank",
        "twins", "repeated", "tidy", "scrub", "oddballs", "go hand in hand", "slope", "link up", "leftovers", "stack",
        "kindly", "whereabouts", "tot up", "midmost", "modal", "commonest", "dearest", "bulkiest", "quickest",
    }
)  # fmt: skip
"""Words and phrases of the wording."""

FAMILIES = frozenset({"rolling_peak", "cumulative_half", "z_scores", "unmatched", "longest_streak", "matrix_program"})

_WORD = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(WORDS, key=len, reverse=True)), re.IGNORECASE)


def words_in(text: str) -> set[str]:
    """The held-out words that stand in a text."""
    return {found.lower() for found in _WORD.findall(text)}
