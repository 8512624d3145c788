"""The sandbox without a model: run code in an isolated kernel and read typed outputs, as it runs."""

import asyncio

from codeact import Sandbox
from codeact.contracts import ExecutionResult, StreamOutput


async def main() -> None:
    async with Sandbox("local", memory=1 << 30, timeout=30) as sandbox:
        session = await sandbox.session()
        await session.put("numbers.txt", b"3 1 4 1 5 9 2 6")
        code = "numbers = [int(n) for n in open('numbers.txt').read().split()]\nprint(sorted(numbers))\nsum(numbers)"
        async for item in session.execute(code):
            if isinstance(item, StreamOutput):
                print("live:", item.text, end="")
            elif isinstance(item, ExecutionResult):
                print("result:", item.result, "in", f"{item.duration * 1000:.0f} ms")
        failed = await session.run("open('/etc/shadow')")
        print("refused:", failed.error.name if failed.error else failed.status)
        print("still there:", [variable.name for variable in await session.variables()])


asyncio.run(main())
