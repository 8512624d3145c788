"""Importing is free of charge and of effects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
HEAVY = {
    "IPython", "fastapi", "httpx", "ipykernel", "jupyter_client", "matplotlib", "numpy", "openai", "pandas", "pydantic",
    "psycopg", "pymongo", "rich", "sqlalchemy", "torch", "typer", "xllamacpp", "zmq",
}  # fmt: skip
# run in the sandbox only, where the kernel is what is wanted
INSIDE = {
    "codeact.sandbox.kernelapp",
    "codeact.sandbox.kernelio",
    "codeact.sandbox.kernelmcp",
    "codeact.sandbox.kernelserver",
}
PROGRAMS = {"codeact.__main__"}

REPORT = """
import json, os, pathlib, sys, threading
before = len(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
{statement}
after = len(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
sys.stdout.write(json.dumps({{
    "modules": sorted(sys.modules), "threads": [str(before[0]), str(after[0])], "files": [before[1], after[1]],
    "children": pathlib.Path("/proc/self/task/%d/children" % os.getpid()).read_text().split(), "cwd": os.listdir(),
}}))
"""


def modules() -> list[str]:
    found = []
    for path in sorted((SOURCE / "codeact").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in found if name not in PROGRAMS]


def report(statement: str, place: Path) -> dict[str, list[str]]:
    """What a fresh process sees after a statement: its modules, threads, open files, children and new files."""
    home = place / "home"
    home.mkdir(exist_ok=True)
    work = place / "work"
    work.mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", REPORT.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=work, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, list[str]] = json.loads(done.stdout)
    told["home"] = [str(path.relative_to(home)) for path in home.rglob("*")]
    return told


def loaded(statement: str, place: Path) -> set[str]:
    return {name.partition(".")[0] for name in report(statement, place)["modules"]}


def test_the_package_itself_loads_nothing(tmp_path: Path) -> None:
    told = report("import codeact; assert codeact.__version__", tmp_path)
    assert [name for name in told["modules"] if name.startswith("codeact")] == ["codeact"]
    assert not HEAVY & {name.partition(".")[0] for name in told["modules"]}
    assert "asyncio" not in told["modules"]


@pytest.mark.parametrize(
    "module", ["codeact.agent", "codeact.sandbox", "codeact.models", "codeact.stores", "codeact.tools"]
)
def test_the_agent_loads_no_kernel_and_no_client(module: str, tmp_path: Path) -> None:
    assert HEAVY & loaded(f"import {module}", tmp_path) <= {"pydantic"}


def test_the_local_sandbox_loads_only_the_messaging(tmp_path: Path) -> None:
    assert HEAVY & loaded("import codeact.sandbox.local", tmp_path) <= {"pydantic", "zmq", "jupyter_client"}


def test_trajectories_load_nothing_heavy(tmp_path: Path) -> None:
    assert HEAVY & loaded("import codeact.trajectory, codeact.page, codeact.notebook", tmp_path) <= {"pydantic"}


def test_the_openai_model_loads_its_library_when_it_is_used(tmp_path: Path) -> None:
    statement = "from codeact.models.openai import OpenAIModel; OpenAIModel('m', base_url='http://127.0.0.1:1/v1')"
    assert HEAVY & loaded(statement, tmp_path) <= {"pydantic"}


def test_the_names_of_the_package(tmp_path: Path) -> None:
    statement = """
import codeact
from codeact import Agent, Budget, Conversation, RunResult, Sandbox, open_model, tool
assert Agent.__module__ == "codeact.agent.agent" and Budget(turns=3).turns == 3
assert Sandbox("local").name == "local"
assert set(codeact.__all__) <= set(dir(codeact)) and all(getattr(codeact, name) for name in codeact.__all__)
try: codeact.Nothing
except AttributeError as error: assert "has no attribute 'Nothing'" in str(error)
else: raise AssertionError
"""
    told = report(statement, tmp_path)
    assert not {"openai", "numpy", "pandas", "IPython"} & set(told["modules"])


def test_importing_any_module_has_no_effects(tmp_path: Path) -> None:
    names = [name for name in modules() if name not in INSIDE]
    assert len(names) > 40
    told = report(f"import {', '.join(names)}", tmp_path)
    assert not {"numpy", "pandas", "matplotlib", "IPython", "openai", "torch"} & set(told["modules"])
    assert told["cwd"] == [] and told["home"] == []
    assert told["threads"] == ["1", "1"]
    assert told["files"][0] == told["files"][1], "files or sockets were opened"
    assert told["children"] == []


def test_the_kernel_can_be_imported_anywhere(tmp_path: Path) -> None:
    told = report("import codeact.sandbox.kernelapp", tmp_path)
    assert told["threads"] == ["1", "1"] and told["children"] == [] and told["cwd"] == []
    assert not {"numpy", "pandas", "matplotlib.pyplot", "debugpy", "openai"} & set(told["modules"])
