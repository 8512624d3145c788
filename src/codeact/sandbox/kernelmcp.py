"""Inside the kernel: what the stubs of the functions of MCP servers call.

The host wraps an answer as ``{"$mcp": {"result", "bytes", "notice", "define"}}`` where there is more to it than JSON:
``bytes`` tells that bytes stand in the result as ``{"$bytes": base64}``; ``notice`` is printed for whoever reads the
output; ``define`` is the source of functions that came since.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

from codeact.sandbox.kernelapp import Kernel, call_host


def call(name: str, arguments: dict[str, Any]) -> Any:
    """Have the host call the function. Raises ToolFailed with its message."""
    answer = call_host(name, arguments)
    if not isinstance(answer, dict) or set(answer) != {"$mcp"}:
        return answer
    whole = answer["$mcp"]
    if whole["define"]:
        exec(whole["define"], Kernel.instance().shell.user_ns)
    if whole["notice"]:
        sys.stdout.write(whole["notice"] + "\n")
    return unpacked(whole["result"]) if whole["bytes"] else whole["result"]


def unpacked(value: Any) -> Any:
    """The value with bytes where ``{"$bytes": …}`` stands."""
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {key: unpacked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    return value
