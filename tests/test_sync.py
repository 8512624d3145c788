"""The door from ordinary code: one loop on a thread of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from codeact.agent import Agent
from codeact.models.replay import ReplayModel
from codeact.sandbox import Sandbox
from codeact.sync import wait_for

CTRL_C = """
import asyncio
from codeact.sync import wait_for

async def work():
    try:
        print("begun", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.2)  # a clean-up takes its time
        print("cleaned up", flush=True)

try:
    wait_for(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

CTRL_C_IN_A_RUN = """
import os, pathlib
from codeact import Agent, tool
from codeact.models.replay import ReplayModel

@tool
def begun() -> None:
    print("begun", flush=True)

children = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
try:
    Agent(ReplayModel(["<execute>begun()\\nwhile True: pass</execute>"]), tools=[begun]).run("Go.")
except KeyboardInterrupt:
    print("left:", children.read_text().split(), flush=True)
"""

FORK = """
import asyncio, os
from codeact.sync import wait_for

async def double(n):
    await asyncio.sleep(0)
    return 2 * n

print(wait_for(double(1)), flush=True)
child = os.fork()
if child == 0:
    print(wait_for(double(2)), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(wait_for(double(3)), flush=True)
"""


def agent(sandbox: object = "local") -> Agent:
    replies = ["<execute>print(6 * 7)</execute>", "It is 42."]
    return Agent(ReplayModel(replies), sandbox=sandbox)  # type: ignore[arg-type]


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def fails() -> None:
    raise LookupError("nothing there")


def test_results_and_exceptions_come_through() -> None:
    assert wait_for(thread_name()) == "codeact"
    with pytest.raises(LookupError, match="nothing there"):
        wait_for(fails())
    assert wait_for(thread_name()) == "codeact"


def test_all_calls_share_one_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert wait_for(loop()) is wait_for(loop())
    assert sum(thread.name == "codeact" for thread in threading.enumerate()) == 1


def test_calls_from_many_threads() -> None:
    done: list[str] = []
    threads = [threading.Thread(target=lambda: done.append(wait_for(thread_name()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == ["codeact"] * 8


def test_a_call_from_within_itself_is_refused_and_does_not_hang() -> None:
    async def inside() -> object:
        return agent().run("Go.")

    with pytest.raises(RuntimeError, match="await the asynchronous method"):
        wait_for(inside())


def test_run_twice_with_one_sandbox() -> None:
    sandbox = Sandbox("local")
    try:
        for _ in range(2):
            result = agent(sandbox).run("What is 6 * 7?")
            assert (result.answer, result.end.executions) == ("It is 42.", 1)
    finally:
        wait_for(sandbox.close())


async def test_run_inside_a_running_loop() -> None:
    assert agent().run("What is 6 * 7?").answer == "It is 42."


def start(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process


@pytest.mark.parametrize(
    ("program", "said"), [(CTRL_C, "cleaned up\ninterrupted\n"), (CTRL_C_IN_A_RUN, "left: []\n")], ids=["plain", "run"]
)
def test_ctrl_c_waits_for_the_clean_up(program: str, said: str) -> None:
    with start(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (said, "", 0)


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    with start(FORK) as process:
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (out, err) == ("2\n4\n6\n", "")
