"""Data-analysis tasks with known answers, over real and made tables.

A task is a function of its split, a seed and a number: the same bytes on every machine. Its expected outcome is
computed here in plain Python; its reference solution, in pandas, is run in a sandbox by the tests and confirms it.
"""

from codeact.evals.tables.generate import family_names, make_task, tasks

__all__ = ["family_names", "make_task", "tasks"]
