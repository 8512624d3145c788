"""docs/evals.md: its command is run, its figures are counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from codeact.evals.tables import real
from codeact.evals.tables.families import MODULES, families
from codeact.evals.task import SPLITS

PAGE = (Path(__file__).parents[2] / "docs" / "evals.md").read_text()


def test_the_command_shows_what_the_page_shows() -> None:
    found = re.search(r"```\n\$ codeact ([^\n]*)\n([^\n]*)\n", PAGE)
    assert found is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "CODEACT"))}
    line = [sys.executable, "-m", "codeact", *found[1].split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == found[2].split()
    assert done.stdout.splitlines()[-1].split()[:4] == ["all", "3", "3", "100"], done.stderr


def test_the_page_counts_right() -> None:
    assert f"{len(families())} families in nine modules" in PAGE and len(MODULES) == 9
    assert round(len(real.names()), -2) == 300
    assert all(f"`{split}`" in PAGE for split in SPLITS)
