"""Inside the kernel: what the stubs of the functions of MCP servers call.

The host wraps an answer as ``{"$mcp": {"result", "notice", "define"}}`` where there is more to it than a value:
``notice`` is printed for whoever reads the output; ``define`` is the source of functions that came since.
"""

from __future__ import annotations

import sys
from typing import Any

from codeact.sandbox import kerneltools
from codeact.sandbox.kernelapp import Kernel


def call(name: str, arguments: dict[str, Any]) -> Any:
    """Have the host call the function. Raises ToolFailed with its message."""
    answer = kerneltools.call(name, arguments)
    if not isinstance(answer, dict) or set(answer) != {"$mcp"}:
        return answer
    whole = answer["$mcp"]
    if whole["define"]:
        exec(whole["define"], Kernel.instance().shell.user_ns)
    if whole["notice"]:
        sys.stdout.write(whole["notice"] + "\n")
    return whole["result"]
