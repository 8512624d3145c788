"""A host process to be killed: ``python -m tests.sandbox.host MARKER`` opens a session, says so, and waits."""

from __future__ import annotations

import asyncio
import sys

from codeact.sandbox import Sandbox
from tests.sandbox.as_user import LIMITS


async def main() -> None:
    async with Sandbox("local", **LIMITS) as sandbox:
        session = await sandbox.session()
        await session.run(
            f"import subprocess\nsubprocess.Popen(['sh', '-c', 'read line', {sys.argv[1]!r}], stdin=subprocess.PIPE)"
        )
        print("ready", flush=True)  # noqa: T201
        await session.run("while True: pass", timeout=600)


if __name__ == "__main__":
    asyncio.run(main())
