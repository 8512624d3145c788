"""A recorded run as something else: written by ``codeact export``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from codeact.errors import UsageError
from codeact.trajectory import Trajectory, load, to_conversations

Target: TypeAlias = Literal["notebook", "html", "conversations"]

_BY_SUFFIX: dict[str, Target] = {
    ".ipynb": "notebook",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "conversations",
    ".json": "conversations",
}


def export(source: Path, target: Target | None, output: Path | None) -> int:
    """Write the trajectory ``source`` as ``target`` (None: as the suffix of ``output`` says) to a file or to stdout.

    Returns the exit status. Raises UsageError and TrajectoryError.
    """
    if target is None:
        if output is None or output.suffix.lower() not in _BY_SUFFIX:
            raise UsageError("what is it to be? Say --to notebook, html or conversations")
        target = _BY_SUFFIX[output.suffix.lower()]
    data = _converted(load(source), target, source.stem).encode("utf-8", "replace")
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    try:
        if output.exists() and output.samefile(source):
            raise UsageError(f"{output} is the recording itself: write to another file")
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    return 0


def _converted(trajectory: Trajectory, target: Target, id: str) -> str:
    if target == "notebook":
        from codeact.notebook import to_notebook

        return json.dumps(to_notebook(trajectory), indent=1, ensure_ascii=False) + "\n"
    if target == "html":
        from codeact.page import to_html

        return to_html(trajectory)
    return json.dumps(to_conversations(trajectory, id), ensure_ascii=False) + "\n"
