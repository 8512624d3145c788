"""The families of tasks, one module a kind."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping

from codeact.evals.tables.family import Family

MODULES = ("aggregates", "grouping", "picking", "relations", "cleaning", "days", "several", "pictures", "programs")


@functools.cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    modules = [importlib.import_module(f"codeact.evals.tables.families.{name}") for name in MODULES]
    return {family.name: family for module in modules for family in module.FAMILIES}
