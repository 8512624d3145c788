"""Functions of the host that the code in the sandbox can call by name."""

from codeact.tools.function import Tool, tool
from codeact.tools.recorded import Recording

__all__ = ["Recording", "Tool", "tool"]
