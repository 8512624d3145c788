"""The agent: the loop (``loop``), the conversation that it works on, what opens one, and what resumes one."""

from codeact.agent.agent import Agent
from codeact.agent.cells import Cell
from codeact.agent.conversation import Check, Conversation
from codeact.agent.resume import ResumedConversation

__all__ = ["Agent", "Cell", "Check", "Conversation", "ResumedConversation"]
