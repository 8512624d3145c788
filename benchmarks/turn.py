"""The agent's own time a turn: the model answers at once from memory, the code returns at once, the rest is measured.

    python benchmarks/turn.py            a table
    python benchmarks/turn.py --json     one JSON object
    python benchmarks/turn.py --quick    few repeats and short conversations, for a look

Replies stream one token a chunk. A turn holds what the agent does in it: messages from the history, parsing, events,
the observation. Medians of ``--repeats`` conversations; the goal is 5 ms whatever the reply and the history.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import (
    Answer,
    ExecutionResult,
    Finish,
    HostTool,
    ModelChunk,
    ModelRequest,
    StateChanges,
    StreamOutput,
    TextDelta,
    Usage,
    UsageReport,
    Variable,
)
from codeact.events import TurnStarted

GOAL_MS = 5.0
REPLY_TOKENS = (50, 200, 1000)
HISTORY = (1, 10, 50, 100)
LINE = "total = sum(row['price'] * row['count'] for row in rows if row['kind'] == 'fruit')\n"
TOKENS_OF_LINE = [LINE[at : at + 4] for at in range(0, len(LINE), 4)]


class NullModel:
    """Says the same action again and again, as fast as it is read."""

    name = "null"
    accepts_images = False

    def __init__(self, tokens: int, context_window: int | None) -> None:
        self.context_window = context_window
        pieces = ["I ", "compute ", "the ", "total.\n\n", "<execute>\n"]
        pieces += [TOKENS_OF_LINE[n % len(TOKENS_OF_LINE)] for n in range(tokens - len(pieces) - 2)]
        self.chunks: list[ModelChunk] = [TextDelta(text=piece) for piece in [*pieces, "\n", "</execute>"]]
        self.end: list[ModelChunk] = [
            UsageReport(usage=Usage(prompt_tokens=1000, completion_tokens=tokens)),
            Finish(reason="stop"),
        ]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk]:
        for chunk in self.chunks:
            yield chunk
        for chunk in self.end:
            yield chunk

    def answer(self, question: str, answer: Answer) -> bool:
        return False

    async def close(self) -> None: ...


class NullSession:
    """Gives the same output back, at once."""

    id = "null"
    description = "The notebook runs nothing."

    def __init__(self) -> None:
        self.output = StreamOutput(name="stdout", text="".join(f"row {n}: {n * 3.25:.2f}\n" for n in range(60)))
        changes = StateChanges(changed=(Variable(name="total", type="float"),))
        self.result = ExecutionResult(status="ok", outputs=(self.output,), changes=changes)

    async def execute(self, code: str, **_: Any) -> AsyncGenerator[Any]:
        yield self.output
        yield self.result

    def answer(self, question: str, answer: Answer) -> bool:
        return False

    async def variables(self) -> tuple[Variable, ...]:
        return ()

    async def close(self) -> None: ...


class NullSandbox:
    name = "null"

    async def session(self, id: str | None = None, *, tools: Sequence[HostTool] = ()) -> Any:
        return NullSession()

    async def close(self) -> None: ...

    async def __aenter__(self) -> NullSandbox:
        return self

    async def __aexit__(self, *exc: object) -> None: ...


async def conversation(tokens: int, turns: int, context_window: int | None) -> list[float]:
    """The seconds that each turn of one run took."""
    agent = Agent(NullModel(tokens, context_window), sandbox=NullSandbox(), budget=Budget(turns=turns))
    marks = []
    gc.collect()
    async for event in agent.stream("What is the total?"):
        if isinstance(event, TurnStarted):
            marks.append(time.perf_counter())
    marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


async def run(sizes: Sequence[int], history: Sequence[int], repeats: int, context_window: int | None) -> dict[str, Any]:
    await conversation(min(sizes), 3, context_window)  # what is only done once in a process is not a turn's
    rows = []
    for tokens in sizes:
        runs = [await conversation(tokens, max(history), context_window) for _ in range(repeats)]
        for turn in history:
            times = [one[turn - 1] * 1000 for one in runs]
            median = statistics.median(times)
            rows.append(
                {
                    "reply_tokens": tokens,
                    "turn": turn,
                    "median_ms": median,
                    "worst_ms": max(times),
                    "met": median <= GOAL_MS,
                }
            )
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "repeats": repeats,
        "context_window": context_window,
        "turns": rows,
        "goals": {"own_time_ms": {"goal": GOAL_MS, "met": all(row["met"] for row in rows)}},
    }


def table(found: dict[str, Any]) -> str:
    lines = [f"{'reply (tokens)':>15}{'turn':>8}{'median (ms)':>14}{'worst (ms)':>13}  goal ≤ {GOAL_MS:g} ms"]
    for row in found["turns"]:
        met = "met" if row["met"] else "MISSED"
        lines.append(
            f"{row['reply_tokens']:>15}{row['turn']:>8}{row['median_ms']:>14.2f}{row['worst_ms']:>13.2f}  {met}"
        )
    lines.append(f"{found['machine']}; medians of {found['repeats']} conversations; reproduce with: {found['command']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="2 conversations of 10 turns at most")
    parser.add_argument("--repeats", type=int, default=7, help="conversations of each kind (default 7)")
    parser.add_argument("--window", type=int, default=128_000, help="the model's window in tokens (default 128000)")
    options = parser.parse_args()
    history = [turn for turn in HISTORY if turn <= 10] if options.quick else HISTORY
    sizes = REPLY_TOKENS[:2] if options.quick else REPLY_TOKENS
    found = asyncio.run(run(sizes, history, 2 if options.quick else options.repeats, options.window))
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
