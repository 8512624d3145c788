"""Many sessions, one after the other and four at a time: nothing grows."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from codeact.sandbox import Sandbox, image
from tests.sandbox.as_user import LIMITS
from tests.sandbox.processes import children, until
from tests.sandbox.test_faults import traces, zygotes

SESSIONS = 2000
WARM_UP = 100
AT_ONCE = 4
GROWTH = {"memory of the host": 8 << 20, "memory of the zygote": 8 << 20}  # bytes

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(600)]


def memory(process: int | str) -> int:
    """Bytes that a process alone has, and its share of what it has with others."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Pss")


def holdings(zygote: int) -> dict[str, int]:
    """How much there is of everything that could grow."""
    gc.collect()
    return {
        "memory of the host": memory("self"),
        "memory of the zygote": memory(zygote),
        "descriptors of the host": len(os.listdir("/proc/self/fd")),
        "descriptors of the zygote": len(os.listdir(f"/proc/{zygote}/fd")),
        "processes": len(children(os.getpid())) + len(children(zygote)),
        "threads of the host": sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
        "threads of the zygote": len(os.listdir(f"/proc/{zygote}/task")),
        "mounts of the host": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "mounts of the zygote": len(Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()),
        "directories and control groups": len(traces(os.getpid())),
        "files in the directory of sockets": sum(1 for trace in traces(os.getpid()) for _ in trace.glob("*-shell")),
    }


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before[name], after[name]) for name in before if after[name] - before[name] > GROWTH.get(name, 0)}


async def test_nothing_grows() -> None:
    others = set(zygotes(os.getpid()))
    async with Sandbox("local", **LIMITS) as sandbox:

        async def use(number: int) -> None:
            session = await sandbox.session()
            await session.put("in.txt", b"x" * 1000)
            code = f"n = {number}\nopen('out.txt', 'w').write('y' * n)\nn * 2"
            assert (await session.run(code)).result == f"{number * 2}"
            assert len(await session.get("out.txt")) == number
            if number % 10 == 0:
                assert (await session.run("import os\nos._exit(0)")).status == "died"
                assert (await session.run("print('x' * 100_000)")).full_output is not None
            await session.close()

        async def use_all(numbers: range) -> None:
            waiting = iter(numbers)

            async def work() -> None:
                for number in waiting:
                    await use(number)

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))

        await use_all(range(WARM_UP))
        (zygote,) = set(zygotes(os.getpid())) - others
        await until(lambda: not children(zygote), "the sessions of the warm-up end")
        if image.is_possible():  # what it does once, when it has time to
            await until(lambda: "memfd:codeact-base" in Path(f"/proc/{zygote}/maps").read_text(), "it moves its memory")
            await until(lambda: not children(zygote), "and the copies that it tried that with end")
        before = holdings(zygote)
        await use_all(range(WARM_UP, SESSIONS))
        await until(lambda: not grown(before, holdings(zygote)), "what was held is let go of")  # the last are reaped
        after = holdings(zygote)
    assert not grown(before, after)
