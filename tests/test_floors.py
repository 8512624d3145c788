"""Who may import whom: a module imports only from floors below it, imports inside functions and for types included.

The floors are described in docs/architecture.md. A new module is assigned to its floor here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

FLOORS: dict[str, int] = {
    # 0: values and contracts
    "errors": 0,
    "contracts": 0,
    "events": 0,
    "sync": 0,
    # 1: pure, text in and values out
    "budget": 1,
    "context": 1,
    "formats": 1,
    "frames": 1,
    "notebook": 1,
    "observation": 1,
    "page": 1,
    "payload": 1,
    "plaintext": 1,
    "raster": 1,
    "tracebacks": 1,
    "trajectory": 1,
    "results": 1,
    # 2: adapters
    "models": 2,
    "sandbox": 2,
    "stores": 2,
    "tools": 2,
    # 3: actors
    "agent": 3,
    "engine": 3,
    # 4: applications
    "evals": 4,
    "train": 4,
    "web": 4,
    # 5: the roof
    "__main__": 5,
    "asking": 5,
    "chat": 5,
    "cli": 5,
    "doctor": 5,
    "evaluating": 5,
    "engineline": 5,
    "export": 5,
    "interrupts": 5,
    "kernelspecs": 5,
    "mcpdesk": 5,
    "mcpserver": 5,
    "outbox": 5,
    "running": 5,
    "saved": 5,
    "screen": 5,
    "settings": 5,
}
"""The floor of each module or package directly under ``codeact``."""

GROUND: dict[str, set[str]] = {
    "errors": set(),
    "sync": set(),
    "contracts": {"errors"},
    "events": {"errors", "contracts"},
}
"""What the ground floor may import of itself."""

NEIGHBOURLY = {1, 5}
"""Floors whose parts may import each other."""

ROOF = "codeact"
"""``codeact/__init__.py``: above every floor, and lazy."""

Graph = dict[str, set[str]]


def sources() -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((SOURCE / "codeact").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def part(module: str) -> str:
    """The module or package directly under ``codeact`` that this one is or belongs to."""
    return module.split(".")[1]


def imports(module: str, tree: ast.AST, modules: Mapping[str, str]) -> set[str]:
    """The modules of ours that this one imports, wherever the statement stands."""
    named: set[str] = set()
    lazy = homes(modules.get(ROOF, ""))
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                named |= {alias.name for alias in names}
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"{module}: a relative import in line {node.lineno}; write it out")
            case ast.ImportFrom(module=str(home), names=names):
                for name in (alias.name for alias in names):
                    whole = f"{home}.{name}"
                    named.add(whole if whole in modules else lazy.get(name, home) if home == ROOF else home)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name))]):
                named.add(name)
    return {name for name in named if name.partition(".")[0] == ROOF} - {module}


def homes(source: str) -> dict[str, str]:
    """Where the names live that ``codeact/__init__.py`` imports when they are used."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    return {}


def graph(modules: Mapping[str, str]) -> Graph:
    return {name: imports(name, ast.parse(source), modules) for name, source in modules.items()}


def complaints(modules: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports, one line each."""
    found = [
        f"{name}: assign it to a floor in tests/test_floors.py"
        for name in modules
        if name != ROOF and part(name) not in FLOORS
    ]
    found += [f"{name}: call it by what it is about" for name in modules if name.endswith((".utils", ".helpers"))]
    if found:
        return found
    edges = graph(modules)
    for importer, imported in edges.items():
        if importer == ROOF:
            continue
        for target in sorted(imported - {ROOF}):
            why = forbidden(importer, target) if target in modules else "there is no such module"
            if why is not None:
                found.append(f"{importer} imports {target}: {why}")
    without_roof = {name: targets - {ROOF} for name, targets in edges.items() if name != ROOF}
    try:
        TopologicalSorter(without_roof).prepare()
    except CycleError as error:
        found.append(f"a circle: {' → '.join(error.args[1])}")
    return found


def forbidden(importer: str, target: str) -> str | None:
    """Why this import is not allowed, None where it is."""
    mine, theirs = part(importer), part(target)
    if mine == theirs:
        return None
    if FLOORS[theirs] > FLOORS[mine]:
        return f"floor {FLOORS[mine]} imports from floor {FLOORS[theirs]}, above it"
    if FLOORS[theirs] < FLOORS[mine] or FLOORS[mine] in NEIGHBOURLY:
        return None
    if FLOORS[mine] == 0:
        return None if theirs in GROUND[mine] else "the ground floor stands in the order errors, contracts, events"
    return f"siblings of floor {FLOORS[mine]} do not import each other"


def test_every_module_keeps_to_its_floor() -> None:
    assert complaints(sources()) == []


def test_the_tree_is_seen() -> None:
    edges = graph(sources())
    assert len(edges) > 40
    assert {"codeact.contracts", "codeact.budget", "codeact.models.estimate"} <= edges["codeact.agent.loop"]
    assert "codeact.sandbox.local" in edges["codeact.sandbox"], "an import inside a function"
    assert "codeact.models.replay" in edges["codeact.models"], "an import for types only"
    assert edges["codeact.errors"] == edges["codeact.sync"] == set()


def test_the_roof_imports_nothing_when_it_is_imported() -> None:
    tree = ast.parse(sources()[ROOF])
    for node in tree.body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            assert ast.unparse(node) in (
                "from __future__ import annotations",
                "from typing import TYPE_CHECKING, Any",
            )


def test_the_lazy_names_are_those_that_the_type_checker_sees() -> None:
    source = sources()[ROOF]
    (checked,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == homes(source)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("codeact.errors", "import codeact.contracts", "the ground floor stands in the order"),
        ("codeact.sync", "from codeact.errors import UsageError", "the ground floor stands in the order"),
        ("codeact.context", "def f():\n    from codeact.agent import Agent", "floor 1 imports from floor 3"),
        ("codeact.context", "def f():\n    from codeact import Agent", "floor 1 imports from floor 3"),
        (
            "codeact.models.x",
            "if TYPE_CHECKING:\n    from codeact.sandbox.local import LocalSandbox",
            "siblings of floor 2",
        ),
        ("codeact.models.x", "importlib.import_module('codeact.tools')", "siblings of floor 2"),
        ("codeact.agent", "from codeact import engine", "siblings of floor 3"),
        ("codeact.agent", "try:\n    import codeact.web.pages\nexcept ImportError:\n    pass", "floor 3 imports from"),
        ("codeact.brandnew", "", "assign it to a floor"),
        ("codeact.sandbox.utils", "", "call it by what it is about"),
        ("codeact.errors", "import codeact.nowhere", "there is no such module"),
        ("codeact.raster", "import codeact.page", "a circle: "),
        ("codeact.sandbox.wire", "def f():\n    from codeact.sandbox import Sandbox", "a circle: "),
    ],
)
def test_what_is_not_allowed_is_found(module: str, source: str, complaint: str) -> None:
    tree = sources()
    before = tree.get(module, "")
    planted = tree | {"codeact.engine": "", "codeact.web.pages": ""} | {module: f"{before}\n{source}\n"}
    found = [line for line in complaints(planted) if line not in complaints(tree)]
    assert any(complaint in line for line in found) and all(module in line for line in found), found
