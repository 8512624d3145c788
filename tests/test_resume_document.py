"""The program of docs/resume.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from codeact.trajectory import TrajectoryWriter
from tests.servers import ScriptedServer
from tests.test_examples import ROOT, run

PAGE = (ROOT / "docs" / "resume.md").read_text()
LENGTH = re.compile(r"length \d{3,}")
REPLIES = [
    "<execute>import time\ntoken = 'x' * (time.time_ns() % 10**6)\ncars = open('cars.csv').read().split()</execute>",
    "<execute>print(len(cars))</execute>",
    "<execute># codeact: outside effects\norder = 1</execute>",
    "Two.",
    "<execute>print(max(cars))</execute>",
    "The van.",
]


def test_the_program_of_the_page(tmp_path: Path) -> None:
    program, reopened = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```\nThe conversation(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "cars.csv").write_text("beetle\nvan\n")
    with ScriptedServer(REPLIES) as server:
        done = run("program.py", server=server, cwd=tmp_path)
        asked = server.requests[4]["messages"][-1]["content"]
    assert LENGTH.sub("length …", done.stdout) == LENGTH.sub("length …", f"The conversation{shown}"), done.stderr
    assert asked == f"And which is the heaviest?\n\n[{done.stdout.rstrip()}]"
    scope: dict[str, TrajectoryWriter] = {}
    exec(reopened.replace('"cars.jsonl"', repr(str(tmp_path / "cars.jsonl"))), scope)
    scope["writer"].close()
