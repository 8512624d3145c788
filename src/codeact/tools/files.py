"""Files of Python whose ``@tool`` functions are offered to the code."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path

from codeact.contracts import HostTool
from codeact.errors import UsageError
from codeact.plaintext import short


def load(paths: Iterable[Path]) -> tuple[HostTool, ...]:
    """The tools that these files define. The files are run here, with all rights of this process.

    Raises UsageError for a file that cannot be run, or defines none.
    """
    found: list[HostTool] = []
    for path in paths:
        try:
            names = runpy.run_path(str(path), run_name="codeact_tools")
        except Exception as error:
            reason = short(f"{type(error).__name__}: {error}", 300)
            raise UsageError(f"the tools in {path} cannot be loaded: {reason}") from error
        here = [value for value in names.values() if isinstance(value, HostTool) and not isinstance(value, type)]
        if not here:
            raise UsageError(f"{path} defines no tool: put @tool (from codeact import tool) over its functions")
        found += here
    return tuple(found)
