"""The benchmarks run and say what they measured. What they measured is no matter here: this machine may be busy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "benchmarks").glob("*.py"))

GOALS: dict[str, set[str]] = {
    "engine.py": {"warm", "starts", "gateway", "long"},
    "sessions.py": {"start_ms", "start_factor", "memory_mb", "warm_p50", "sustained", "fork"},
    "context.py": {"sent_before"},
    "turn.py": {"own_time_ms"},
}
"""The goals that each program reports on."""


def run(program: Path, *options: str) -> str:
    command = [sys.executable, "-W", "error::ResourceWarning", str(program.relative_to(ROOT)), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_it_reports_as_json(program: Path) -> None:
    found: dict[str, Any] = json.loads(run(program, "--quick", "--json"))
    assert str(program.relative_to(ROOT)) in found["command"] and "--quick" in found["command"]
    assert "Python" in found["machine"] and found["repeats"] >= 1
    assert set(found["goals"]) == GOALS[program.name]
    for goal in found["goals"].values():
        assert set(goal) == {"goal", "met"} and isinstance(goal["met"], bool)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_it_explains_itself(program: Path) -> None:
    told = run(program, "--help")
    assert all(option in told for option in ("--json", "--quick", "--repeats"))
    assert f"python benchmarks/{program.name}" in told


def test_the_table_of_turns() -> None:
    lines = run(ROOT / "benchmarks" / "turn.py", "--quick").splitlines()
    rows = [line.split() for line in lines[1:-1]]
    assert [(row[0], row[1]) for row in rows] == [("50", "1"), ("50", "10"), ("200", "1"), ("200", "10")]
    assert all(float(row[2]) > 0 and row[-1] in ("met", "MISSED") for row in rows)
    assert "reproduce with: python benchmarks/turn.py --quick" in lines[-1]
