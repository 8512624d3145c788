"""The agent: the loop (``loop``), the conversation that it works on, and what opens one."""

from codeact.agent.agent import Agent
from codeact.agent.conversation import Check, Conversation

__all__ = ["Agent", "Check", "Conversation"]
