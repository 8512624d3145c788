"""Tools and resources of MCP servers as functions of the sandbox. Needs the extra ``mcp``.

``servers`` holds them together; ``config`` reads the file, ``connection`` and ``process`` speak with one server,
``schema`` and ``functions`` make Python of what it offers, ``results`` makes values of what it answers.
"""

from __future__ import annotations

from codeact.errors import UsageError

try:
    from codeact.tools.mcp.servers import McpServers
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
        raise
    raise UsageError('MCP servers need the extra "mcp": pip install "codeact[mcp]"') from error

__all__ = ["McpServers"]
