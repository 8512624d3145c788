"""Write into docs/cli.md what ``--help`` says: ``python docs/refresh.py``; with ``--check`` only compare."""

import io
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
BLOCK = re.compile(r"(```\n\$ codeact ([^\n]*)\n).*?(?=```)", re.DOTALL)


def said(arguments: str) -> str:
    """What a command of the command line prints."""
    from codeact.cli import app

    with redirect_stdout(io.StringIO()) as out:
        app(arguments.split(), prog_name="codeact", standalone_mode=False)
    return out.getvalue()


def refreshed(page: str) -> str:
    """The page with every block that shows a command as that command prints today."""
    return BLOCK.sub(lambda block: block[1] + said(block[2]), page)


def main() -> None:
    os.environ["COLUMNS"] = "100"
    old = PAGE.read_text()
    new = refreshed(old)
    if "--check" in sys.argv and new != old:
        sys.exit(f"{PAGE.name} is not what the command line says: run python docs/refresh.py")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
