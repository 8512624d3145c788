"""Forked sessions: what they carry, what they say that they lost, and that neither sees the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.contracts import DisplayOutput, Sandbox, Session
from codeact.errors import SandboxError
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox import image
from tests.sandbox import ordinary
from tests.sandbox.contract import Tool, begun, rest
from tests.sandbox.processes import alive, children, until
from tests.sandbox.test_attacks import home_for_others
from tests.sandbox.test_faults import zygotes

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not image.is_possible(), reason="kernels are forked on x86-64 only"),
]

STATE = """
import functools, json, os, sqlite3, sys
import numpy as np
import pandas as pd

class Counter:
    made = 0
    def __init__(self): Counter.made += 1

def numbers():
    n = 0
    while True:
        n += 1
        yield n

@functools.cache
def slow(n):
    calls.append(n)
    return n * n

calls = []
counter, twins = Counter(), [[]] * 2
generator = numbers(); next(generator); next(generator)
add = (lambda base: lambda n: base + n + len(calls))(10)
slow(3)
array = np.arange(1_000_000.0)
frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
base = sqlite3.connect(":memory:"); base.execute("create table t (n)"); base.execute("insert into t values (42)")
pd.set_option("display.max_rows", 7)
os.makedirs("deep/er", exist_ok=True)
open("deep/er/file.txt", "w").write("hello world")
os.symlink("deep/er/file.txt", "link")
reader = open("link"); reader.read(6)
open("own.py", "w").write("values = []\\n")
import own; own.values.append(1)
os.environ["SAID"] = "yes"
os.chdir("deep")
"""
CHECKS = {
    "next(generator), next(generator)": "(3, 4)",
    "add(1), slow(3), calls, slow.cache_info().hits": "(12, 9, [3], 1)",
    "Counter.made, isinstance(counter, Counter), twins[0] is twins[1]": "(1, True, True)",
    "float(array.sum()), frame.b.tolist()": "(499999500000.0, ['x', 'y'])",
    "base.execute('select n from t').fetchone()": "(42,)",
    "pd.get_option('display.max_rows'), own.values, os.environ['SAID']": "(7, [1], 'yes')",
    "os.getcwd(), reader.read(), open('../link').read()": "('/workspace/deep', 'world', 'hello world')",
    "sorted(os.listdir('/workspace'))": "['deep', 'link', 'own.py']",
    "Out[2], In[2]": "('noted', \"'noted'\")",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with make_sandbox("local", memory=1 << 30, disk=64 << 20) as sandbox:
        yield sandbox


async def done(session: Session, code: str) -> str | None:
    """The result of code that must succeed."""
    result = await session.run(code)
    assert result.status == "ok", (result.error, result.notice)
    return result.result


async def test_everything_in_memory_is_carried(sandbox: Sandbox, session: Session) -> None:
    await done(session, STATE)
    await done(session, "'noted'")
    fork = await session.fork()
    for code, expected in CHECKS.items():
        assert await done(fork, code) == expected
    for code, expected in CHECKS.items():
        assert await done(session, code) == expected, "the first one went on undisturbed"
    await fork.close()


async def test_neither_sees_the_other(sandbox: Sandbox, session: Session) -> None:
    await done(session, "shared = [1]\nopen('file', 'w').write('first')\nopen('/tmp/file', 'w').write('first')")
    await done(session, "import socket, subprocess\nserver = socket.create_server(('127.0.0.1', 8765))")
    fork = await session.fork()
    await done(fork, "shared.append(2); only_here = 1\nfor p in ('file', '/tmp/file'): open(p, 'w').write('second')")
    await done(session, "shared.append(3); only_there = 1")
    both = (
        "shared, [open(p).read() for p in ('file', '/tmp/file')], 'only_here' in globals(), 'only_there' in globals()"
    )
    assert await done(fork, both) == "([1, 2], ['second', 'second'], True, False)"
    assert await done(session, both) == "([1, 3], ['first', 'first'], False, True)"
    await done(session, "child = subprocess.Popen(['sleep', '1234.5'])")
    look = "import glob\nany(b'1234.5' in open(path, 'rb').read() for path in glob.glob('/proc/[0-9]*/cmdline'))"
    assert await done(session, look) == "True"
    assert await done(fork, look) == "False"
    connect = await fork.run("socket.create_connection(('127.0.0.1', 8765), 1)")
    assert connect.error is not None and connect.error.name == "ConnectionRefusedError"
    looked_at = ("CapPrm", "CapEff", "NoNewPrivs", "Seccomp:")
    locked = f"[line.split()[1] for line in open('/proc/self/status') if line.startswith({looked_at})]"
    assert (
        await done(fork, locked) == await done(session, locked) == "['0000000000000000', '0000000000000000', '1', '2']"
    )
    await fork.close()


async def test_what_is_lost_is_told_once(sandbox: Sandbox, session: Session) -> None:
    await done(session, "import asyncio, socket, subprocess, threading")
    await done(
        session, "held = threading.Event()\nthread = threading.Thread(target=held.wait, name='worker', daemon=True)"
    )
    await done(session, "thread.start()\nplug = socket.socket()\nchild = subprocess.Popen(['sleep', '600'])")
    await done(session, "task = asyncio.create_task(asyncio.sleep(600), name='later')")
    fork = await session.fork()
    result = await fork.run("thread.is_alive(), held.is_set()")
    assert result.result == "(False, False)" and result.notice is not None
    for lost in ("socket (descriptor ", "thread worker", "task later", "(sleep)"):
        assert lost in result.notice
    assert (await fork.run("1")).notice is None
    sending = await fork.run("plug.send(b'x')")
    assert sending.error is not None and sending.error.name == "BrokenPipeError", "not somebody else's descriptor"
    assert await done(session, "thread.is_alive(), task.done(), child.poll()") == "(True, False, None)"
    await fork.close()
    plain = await sandbox.session()
    copy = await plain.fork()
    assert (await copy.run("1")).notice is None, "nothing was lost"


async def test_fork_is_a_session_like_any_other(sandbox: Sandbox) -> None:
    session = await sandbox.session(tools=[Tool("add", lambda a: a["x"] + a["y"])])
    await done(session, "import logging, sys\nlogging.basicConfig(stream=sys.stderr, format='%(message)s')\nn = 1")
    fork = await session.fork()
    assert await done(fork, "add(x=2, y=3)") == "5"
    result = await fork.run("print('out')\nlogging.warning('err')\n!echo from a shell\nn + 1")
    assert (result.stdout.split(), result.stderr, result.result) == (["out", "from", "a", "shell"], "err\n", "2")
    assert result.changes is not None and await fork.variables() != ()
    assert await done(fork, "import asyncio\nawait asyncio.sleep(0, 'awaited')") == "'awaited'"
    plot = await fork.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert any("image/png" in output.data for output in plot.outputs if isinstance(output, DisplayOutput))
    items, _ = await begun(fork, "print('begun')\nwhile True: pass")
    await fork.interrupt()
    assert (await rest(items)).status == "interrupted"
    await fork.put("in.txt", b"in")
    assert await done(fork, "open('/workspace/in.txt').read()") == "'in'"
    assert (await fork.run("import os; os._exit(3)")).status == "died"
    fresh = await fork.run("'n' in globals(), open('/workspace/in.txt').read()")
    assert (fresh.result, fresh.fresh_kernel) == ("(False, 'in')", True)
    await fork.close()
    await session.close()


async def test_forks_outlive_and_beget_one_another(sandbox: Sandbox) -> None:
    first = await sandbox.session()
    await done(first, "line = [1]")
    second = await first.fork()
    await first.close()
    await done(second, "line.append(2)")
    third = await second.fork()
    await second.close()
    await done(third, "line.append(3)\nimport decimal")
    fourth = await third.fork()
    assert await done(fourth, "line, decimal.Decimal(1)") == "([1, 2, 3], Decimal('1'))"
    await fourth.close()
    assert await done(third, "line") == "[1, 2, 3]"
    await third.close()


async def test_many_forks_share_one_memory(sandbox: Sandbox, session: Session) -> None:
    await done(session, "import numpy as np\nbig = np.ones(100 << 17)")
    forks = await session.forks(3)
    for number, fork in enumerate(forks):
        await done(fork, f"big[0] = {number}\nseen = float(big.sum()) - big.size + 1")
    seen = [await done(fork, "float(big[0]), seen") for fork in forks]
    assert seen == ["(0.0, 0.0)", "(1.0, 1.0)", "(2.0, 2.0)"]
    held = "[int(line.split()[1]) >> 10 for line in open('/proc/self/smaps_rollup') if line.startswith('Anonymous')][0]"
    for fork in forks:
        assert int(await done(fork, held) or "0") < 80, "MiB: the hundred were copied"
        await fork.close()


async def test_random_numbers_go_on(sandbox: Sandbox, session: Session) -> None:
    await done(session, "import random\nimport numpy as np\nrandom.seed(1); np.random.seed(1)")
    fork = await session.fork()
    draw = "random.random(), float(np.random.rand())"
    assert await done(fork, draw) == await done(session, draw)
    await fork.close()


async def test_fork_that_never_gets_ready_is_given_up(sandbox: Sandbox, session: Session) -> None:
    await done(session, "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(600))")
    with pytest.raises(SandboxError, match="did not get ready"):
        await session.fork()
    assert await done(session, "1 + 1") == "2"


async def test_fork_waits_for_the_running_code(sandbox: Sandbox, session: Session) -> None:
    items, _ = await begun(
        session, "import os, time\nprint('begun')\nwhile not os.path.exists('go'): time.sleep(0.01)\nn = 1"
    )
    forking = asyncio.create_task(session.fork())
    await session.put("go", b"")
    assert (await rest(items)).status == "ok"
    fork = await forking
    assert await done(fork, "n") == "1"
    await fork.close()


async def test_state_that_is_too_large_is_refused_and_kept() -> None:
    async with make_sandbox("local", memory=384 << 20, disk=64 << 20) as small:
        session = await small.session()
        await done(session, "kept = bytearray(200 << 20)\nfor i in range(0, len(kept), 4096): kept[i] = 1")
        with pytest.raises(SandboxError, match="memory limit"):
            await session.fork()
        assert await done(session, "len(kept) >> 20") == "200"


async def test_what_cannot_be_forked_says_so(sandbox: Sandbox) -> None:
    async with make_sandbox("unsafe-process") as without:
        session = await without.session()
        with pytest.raises(SandboxError, match="local"):
            await session.fork()
    dead = await sandbox.session()
    assert (await dead.run("import os; os._exit(1)")).status == "died"
    with pytest.raises(SandboxError, match="no running kernel"):
        await dead.fork()
    await dead.close()


async def test_fork_without_its_zygote_says_so() -> None:
    async with make_sandbox("local", memory=512 << 20, disk=64 << 20) as sandbox:
        before = set(zygotes(os.getpid()))
        session = await sandbox.session()
        await done(session, "n = 1")
        (zygote,) = set(zygotes(os.getpid())) - before or set(zygotes(os.getpid()))
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not alive([zygote]), "the zygote ends")
        with pytest.raises(SandboxError, match="zygote"):
            await session.fork()
        assert await done(session, "n") == "1"


async def test_closed_forks_leave_nothing(sandbox: Sandbox, session: Session) -> None:
    async def use() -> None:
        fork = await session.fork()
        await done(fork, "1")
        await fork.close()

    await use()
    (zygote,) = zygotes(os.getpid())
    descriptors, processes = len(os.listdir("/proc/self/fd")), len(children(zygote))
    for _ in range(5):
        await use()
    await until(lambda: len(children(zygote)) == processes, "the processes of the forks end")
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_ordinary_user_forks(tmp_path: Path) -> None:
    told = json.loads(await asyncio.to_thread(ordinary.run, home_for_others(tmp_path), "fork"))
    assert told == {
        "fork": "([1, 2], 'text')",
        "first": "([1], 'text')",
        "user": ordinary.USER if os.geteuid() == 0 else os.getuid(),
    }
