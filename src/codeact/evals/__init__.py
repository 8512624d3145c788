"""Evaluations: tasks with known answers, attempts at them, and what came of it."""
