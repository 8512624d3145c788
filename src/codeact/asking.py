"""A person at the terminal answers what the code asks."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from rich.text import Text

from codeact.contracts import Answer, Question
from codeact.screen import asked, console

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

PATIENCE = 3600.0
"""Seconds in which a question at the terminal is to be answered."""


def somebody() -> bool:
    """Whether there is a terminal to ask at."""
    return sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())


async def ask_at_terminal(question: Question) -> Answer:
    """Show the question and wait for a line. For ``Agent(ask=ask_at_terminal)``.

    A call is allowed by ``y``; anything else refuses it, and longer words are the reason. Ctrl-C is as if it had been
    pressed while the code runs; Ctrl-D is no answer. Where there is no terminal every call is refused.
    """
    if not somebody():
        return Answer(text="there is no terminal to ask at" if question.kind == "approval" else None)
    file = sys.stdout if sys.stdout.isatty() else sys.stderr
    console(file).print(Text(asked(question), "bold yellow"), soft_wrap=True)
    approval = question.kind == "approval"
    words = "allow it? (y/N, or say why not) " if approval else "› "
    try:
        typed = await _prompt().prompt_async(words, handle_sigint=False, is_password=question.password)
    except EOFError:
        return Answer()
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
        return Answer()
    if not approval:
        return Answer(text=typed)
    typed = typed.strip()
    if typed.lower() in ("y", "yes"):
        return Answer(approved=True)
    return Answer(text=None if typed.lower() in ("", "n", "no") else typed)


def _prompt() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    return PromptSession(output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr))
