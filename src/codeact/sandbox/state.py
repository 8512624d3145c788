"""Which names of a kernel appeared, changed or vanished. Runs inside the kernel, next to the model's code.

Reads attributes of well-known types only, so that looking at the state runs no code of the objects in it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

_LISTED = 500
_HIDDEN = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)
_SHAPED = ("numpy", "pandas", "torch", "scipy", "polars", "jax", "jaxlib", "tensorflow", "xarray")

Description = dict[str, Any]
Snapshot = dict[str, tuple[int, Description]]

offered: dict[str, object] = {}
"""What the host defined in the namespace: no news as long as it is this object."""


def describe(name: str, value: object) -> Description:
    """``{"name", "type"}`` and, where they are known without running the object's code, ``shape`` or ``length``."""
    kind = type(value)
    description: Description = {"name": name, "type": kind.__name__}
    if kind in _SIZED:
        description["length"] = len(value)  # type: ignore[arg-type]
    elif kind.__module__.partition(".")[0] in _SHAPED:
        try:
            description["shape"] = [int(n) for n in value.shape]  # type: ignore[attr-defined]
        except Exception:
            pass  # not every object of these packages has a shape
    return description


def snapshot(namespace: Mapping[str, object]) -> Snapshot:
    """Every name of the user's, with the identity of its value."""
    return {
        name: (id(value), describe(name, value))
        for name, value in list(namespace.items())
        if not name.startswith("_")
        and name not in _HIDDEN
        and not isinstance(value, types.ModuleType)
        and not (name in offered and offered[name] is value)
    }


def changes(before: Snapshot, after: Snapshot) -> dict[str, list[Any]]:
    """``added`` and ``changed`` descriptions and ``removed`` names; at most 500 of each."""
    return {
        "added": [after[n][1] for n in after if n not in before][:_LISTED],
        "changed": [after[n][1] for n in after if n in before and after[n] != before[n]][:_LISTED],
        "removed": [n for n in before if n not in after][:_LISTED],
    }
