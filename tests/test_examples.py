"""The programs of `examples/` and of the README, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ScriptedServer

ROOT = Path(__file__).parents[1]


def run(
    *arguments: str | Path, server: ScriptedServer | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "CODEACT"))}
    if server is not None:
        environment |= {"OPENAI_BASE_URL": server.base_url, "CODEACT_MODEL": "scripted"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment, cwd=cwd)


def test_hello_answers_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("n\n3\n4\n")
    replies = [
        "<execute>import pandas as pd\nprint(pd.read_csv('numbers.csv')['n'].sum())</execute>",
        "The sum is 7.",
    ]
    with ScriptedServer(replies) as server:
        done = run("examples/hello.py", tmp_path / "numbers.csv", "What is the sum?", server=server)
    assert done.stdout == "The sum is 7.\n", done.stderr
    assert server.requests[1]["messages"][-1]["content"].startswith("Execution Output:\n7")


def test_a_host_tool_is_called_from_the_sandbox() -> None:
    replies = [
        "<execute>print(3 * price_of('apple') + 2 * price_of('pear') + 10 * price_of('plum'))</execute>",
        "Done.",
    ]
    with ScriptedServer(replies) as server:
        done = run("examples/host_tool.py", server=server)
    assert done.stdout == "Done.\n", done.stderr
    assert "price_of(fruit: str)" in server.requests[0]["messages"][0]["content"]
    assert "4.8" in server.requests[1]["messages"][-1]["content"]


def test_the_sandbox_alone() -> None:
    done = run("examples/sandbox_only.py")
    assert done.returncode == 0, done.stderr
    assert "live: [1, 1, 2, 3, 4, 5, 6, 9]" in done.stdout
    assert "result: 31" in done.stdout
    assert "refused: FileNotFoundError" in done.stdout
    assert "still there: ['numbers']" in done.stdout


def test_the_program_of_the_readme(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    program = tmp_path / "readme.py"
    program.write_text(found[1])
    (tmp_path / "sales.csv").write_text("year,dollars\n2023,10\n2024,20\n")
    replies = ["<execute>print(open('sales.csv').read(), rate('USD'))</execute>", "2024 was best."]
    with ScriptedServer(replies) as server:
        done = run(program, server=server, cwd=tmp_path)
    assert done.stdout == "2024 was best.\n", done.stderr
    assert "0.92" in server.requests[1]["messages"][-1]["content"]


def test_the_programs_of_the_page_on_context(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "context.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        (tmp_path / "page.py").write_text(program)
        with ScriptedServer(["<execute>print(6 * 7)</execute>", "It is 42."]) as server:
            done = run(tmp_path / "page.py", server=server, cwd=tmp_path)
        assert done.stdout == "It is 42.\n", done.stderr
        assert server.requests[1]["messages"][-1]["content"].startswith("Execution Output:\n42")


def test_the_demo_repairs_its_error_and_leaves_its_files(tmp_path: Path) -> None:
    done = run("examples/demo.py", "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "come from a recording" in done.stdout
    assert (tmp_path / "fuel_economy.png").read_bytes().startswith(b"\x89PNG")
    assert "American cars gained most" in (tmp_path / "answer.md").read_text()
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()[1:]]
    statuses = [event["result"]["status"] for event in events if event["type"] == "execution_finished"]
    assert statuses == ["ok", "error", "ok", "ok"]
    outputs = [output for e in events if e["type"] == "execution_finished" for output in e["result"]["outputs"]]
    live = "".join(output.get("text", "") for output in outputs)
    assert "15.3  28.7  13.4     87.9" in live  # computed here and now: the figures that the recorded answer quotes
    notebook = json.loads((tmp_path / "run.ipynb").read_text())
    assert sum(cell["cell_type"] == "code" for cell in notebook["cells"]) == 4
    assert "data:image/png;base64," in (tmp_path / "run.html").read_text()


def test_the_demo_takes_a_live_model(tmp_path: Path) -> None:
    replies = ["<execute>open('fuel_economy.png', 'wb').write(b'made')</execute>", "Made."]
    with ScriptedServer(replies) as server:
        done = run("examples/demo.py", "--model", "scripted", "--output", tmp_path, server=server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recording" not in done.stdout
    assert (tmp_path / "fuel_economy.png").read_bytes() == b"made"
    assert (tmp_path / "answer.md").read_text() == "Made.\n"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_knows_the_commands_of_the_readme(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert f"make {target}" in (ROOT / "README.md").read_text()


TOOL_PROGRAMS = [
    ("<execute>print(3 * price_of('apple'))</execute>", "1.2", "Done.\n"),
    ("<execute>print(pay('Ann', 5.0))</execute>", "", ""),
    (
        "<execute>print(delete('draft'), input('who? '))\ntry:\n    delete('thesis')\nexcept ToolRefused as error:\n"
        "    print(error)</execute>",
        "draft is gone Ann\nthe user refused this call of delete: only drafts may go",
        "Done.\n",
    ),
    (
        "<execute>delete('thesis')</execute>",
        "ToolRefused: the user refused this call of delete: keep it",
        "delete {'name': 'thesis'} refused the user refused this call of delete: keep it\n",
    ),
]


@pytest.mark.parametrize(("number", "program"), list(enumerate(TOOL_PROGRAMS)))
def test_the_programs_of_the_page_on_tools(tmp_path: Path, number: int, program: tuple[str, str, str]) -> None:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tools.md").read_text(), re.DOTALL)
    assert len(found) == len(TOOL_PROGRAMS)
    action, observed, answer = program
    path = tmp_path / "program.py"
    path.write_text(found[number])
    with ScriptedServer([action, "Done."]) as server:
        done = run(path, server=server, cwd=tmp_path)
    assert (done.stdout, done.returncode) == (answer, 0), done.stderr
    if observed:
        assert observed in server.requests[1]["messages"][-1]["content"]
