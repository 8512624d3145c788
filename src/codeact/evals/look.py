"""What is looked at inside a session, after a run: this file's source is run there, and prints one line of JSON.

It runs beside untrusted code, or on a file that such code wrote: what it says is data, judged outside.
"""

from __future__ import annotations

import json
from typing import Any


def picture(path: str) -> dict[str, int]:
    """Width, height, and how many pixels in the middle are neither background nor part of a straight grid line."""
    import numpy as np
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as image:
        width, height = image.size
        if width * height > 50_000_000:
            return {"width": width, "height": height, "marks": 0}
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image.convert("RGBA"))
    pixels = np.asarray(flat.convert("RGB")).astype(int)
    inside = pixels[height // 6 : height - height // 5, width // 6 : width - width // 8]
    colours, counts = np.unique(inside.reshape(-1, 3) // 8, axis=0, return_counts=True)
    background = colours[counts.argmax()] * 8 + 4
    if background.max() - background.min() > 40:  # bars or areas that fill most of it
        return {"width": width, "height": height, "marks": int(counts.max()), "inside": int(counts.sum())}
    ink = np.abs(inside - background).max(axis=2) > 24
    if ink.size:
        coloured = (inside.max(axis=2) - inside.min(axis=2)) > 30
        lines = (ink.mean(axis=1) > 0.9)[:, None] | (ink.mean(axis=0) > 0.9)[None, :]
        ink &= ~lines | coloured
    return {"width": width, "height": height, "marks": int(ink.sum()), "inside": int(ink.size)}


def calls(function: Any, arguments: list[list[Any]]) -> list[list[Any]]:
    """For each call ``["value", result]`` or ``["error", what]``."""
    found = []
    for given in arguments:
        try:
            found.append(["value", function(*given)])
        except Exception as error:
            found.append(["error", type(error).__name__])
    return found


def variable(value: Any) -> dict[str, Any]:
    """A value as JSON, and the number of rows of a frame."""
    rows = len(value) if type(value).__name__ in ("DataFrame", "Series", "ndarray") else None
    if hasattr(value, "tolist"):
        value = value.tolist()
    return {"rows": rows, "value": value if rows is None else None}


def say(mark: str, found: object) -> None:
    """Print it, told from other output by the mark."""
    print(mark + json.dumps(found, default=str))  # noqa: T201
