"""Addresses of stores, and the documentation, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codeact.errors import UsageError
from codeact.stores import open_store
from codeact.stores.store import shown

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite://host/x", "mysql://host/x", "", "://", "file:///x"]
)
async def test_what_is_no_address_of_a_store_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="sqlite:///"):
        await open_store(url)


def test_an_address_is_shown_without_secrets() -> None:
    assert shown("postgresql://ann:pass@db:5432/x?sslpassword=pass") == "postgresql://db:5432/x"
    assert shown("mongodb://a:p@ss@h1,h2/x?authSource=y") == "mongodb://h1,h2/x"
    assert shown("mongodb://[broken:pass@x") == "mongodb"


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [("psycopg", "postgresql://127.0.0.1/x", "postgresql"), ("pymongo", "mongodb://127.0.0.1/x", "mongodb")],
)
def test_a_missing_extra_is_named(package: str, url: str, extra: str) -> None:
    program = f"""
import asyncio, sys
sys.modules["{package}"] = None
from codeact.errors import UsageError
from codeact.stores import open_store
try: asyncio.run(open_store("{url}"))
except UsageError as error: print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ | paths()
    )
    assert f"pip install 'codeact[{extra}]'" in done.stdout, done.stderr


def test_the_documentation_does_what_it_says(tmp_path: Path) -> None:
    program, output = re.findall(r"```(?:python)?\n(.*?)```", (ROOT / "docs/stores.md").read_text(), re.DOTALL)[:2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | paths(),
    )
    assert done.stdout == output, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["conversations.db"]


def paths() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT / "src")}
