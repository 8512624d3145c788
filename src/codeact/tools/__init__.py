"""Functions of the host that the code in the sandbox can call by name."""

from codeact.tools.function import Tool, tool

__all__ = ["Tool", "tool"]
