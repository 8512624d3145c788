"""An agent whose only action is Python, run in an isolated, stateful Jupyter kernel.

    from codeact import Agent
    print(Agent("qwen2.5-coder").run("How many rows has cars.csv?", files=["cars.csv"]).answer)

Names are imported when they are used: ``import codeact`` itself loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeact.agent import Agent, Conversation
    from codeact.asking import ask_at_terminal
    from codeact.budget import Budget
    from codeact.models import open_model
    from codeact.results import BestOf, RunResult
    from codeact.sandbox import Sandbox
    from codeact.tools import tool

__version__ = "0.1.0"
__all__ = ["Agent", "BestOf", "Budget", "Conversation", "RunResult", "Sandbox", "ask_at_terminal", "open_model", "tool"]

_HOMES = {
    "Agent": "codeact.agent",
    "BestOf": "codeact.results",
    "Budget": "codeact.budget",
    "Conversation": "codeact.agent",
    "RunResult": "codeact.results",
    "Sandbox": "codeact.sandbox",
    "ask_at_terminal": "codeact.asking",
    "open_model": "codeact.models",
    "tool": "codeact.tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'codeact' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
