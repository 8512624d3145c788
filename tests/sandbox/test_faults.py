"""What is left when a part of the local sandbox is killed, and that nothing is left when none is."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.contracts import Sandbox
from codeact.errors import FileTransferError, SandboxError
from codeact.sandbox import Sandbox as make_sandbox
from tests.sandbox import ordinary
from tests.sandbox.as_user import LIMITS
from tests.sandbox.contract import begun, rest
from tests.sandbox.ordinary import REPOSITORY, SMALL
from tests.sandbox.processes import alive, children, marked, until
from tests.sandbox.test_attacks import home_for_others

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with make_sandbox("local", **LIMITS) as sandbox:
        yield sandbox


def zygotes(parent: int) -> list[int]:
    return [pid for pid in children(parent) if pid in marked("codeact.sandbox.zygote")]


def traces(host: int) -> list[Path]:
    """Directories and control groups that a host process made."""
    found = list(Path(tempfile.gettempdir()).glob(f"codeact-{host}-*"))
    for controller in ("memory", "pids", ""):
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        for _, controllers, path in own:
            if controller in controllers.split(","):
                base = Path("/sys/fs/cgroup", controller, path.lstrip("/"))
                found += [*base.glob(f"codeact-{host}-*"), *base.parent.glob(f"codeact-{host}-*")]
    return found


async def test_killed_host_leaves_nothing(sandbox: Sandbox) -> None:
    marker = f"orphan-{os.getpid()}-{id(sandbox)}"
    command = [sys.executable, "-m", "tests.sandbox.host", marker]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None and await asyncio.to_thread(host.stdout.readline) == b"ready\n"
        assert len(marked(marker)) == 2 and traces(host.pid)
        (zygote,) = zygotes(host.pid)
        sessions = children(zygote)
        assert sessions
        host.kill()
    gone = [zygote, *sessions]
    await until(lambda: not marked(marker), "the processes of the session end")
    await until(lambda: not alive(gone), "the zygote and its sessions end")
    async with make_sandbox("local", **LIMITS) as next_one:  # the start of the next one sweeps
        assert (await (await next_one.session()).run("6 * 7")).result == "42"
        await until(lambda: not traces(host.pid), "directories and control groups are removed")
    assert "codeact-" not in Path("/proc/self/mountinfo").read_text()


async def test_killed_zygote_is_replaced(sandbox: Sandbox) -> None:
    old = await sandbox.session()
    await old.run("kept = 1")
    (zygote,) = zygotes(os.getpid())
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: not alive([zygote]), "the zygote ends")
    assert (await old.run("kept")).result == "1"
    new = await sandbox.session()
    try:
        assert zygotes(os.getpid()) != [zygote]
        assert (await new.run("'kept' in globals()")).result == "False"
        assert (await old.run("kept")).result == "1"
        died = await old.run("import os\nos._exit(1)")
        assert died.status == "died"
        fresh = await old.run("6 * 7")
        assert (fresh.result, fresh.fresh_kernel) == ("42", True), "a session outlives its zygote"
    finally:
        await new.close()
        await old.close()


async def test_killed_process_1_is_told(sandbox: Sandbox) -> None:
    await (await sandbox.session()).close()
    (zygote,) = zygotes(os.getpid())
    before = set(children(zygote))
    session = await sandbox.session()
    (first,) = set(children(zygote)) - before
    items, _ = await begun(session, "print('begun')\nwhile True: pass")
    os.kill(first, signal.SIGKILL)
    try:
        result = await asyncio.wait_for(rest(items), 20)
        assert result.status == "died" and result.notice is not None
    except SandboxError as error:
        assert "gone" in str(error)
    with pytest.raises(SandboxError):
        await session.run("1")
    with pytest.raises(SandboxError):
        await session.put("x", b"")
    await session.close()
    other = await sandbox.session()
    assert (await other.run("6 * 7")).result == "42"
    await other.close()


async def test_memory_of_several_processes_is_held_without_cgroups(tmp_path: Path) -> None:
    told = json.loads(await asyncio.to_thread(ordinary.run, home_for_others(tmp_path), "hog"))
    assert told["before"] == "ok" and told["status"] == "died" and told["after"] == "False"
    assert "more memory than its limit of 512 MiB" in told["notice"] and "(lost)" in told["notice"]
    assert told["user"] != 0 or os.geteuid() != 0
    assert not told["cgroups"]


async def test_refused_isolation_runs_nothing_and_names_the_remedy(tmp_path: Path) -> None:
    told = json.loads(await asyncio.to_thread(ordinary.run, home_for_others(tmp_path), "forbidden"))
    assert told["refused"] is not None
    assert "user namespaces" in told["refused"] and "unsafe-process" in told["refused"]
    assert not (tmp_path / "ran").exists()


def _holdings() -> dict[str, object]:
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": len(children(os.getpid())) + sum(len(children(pid)) for pid in zygotes(os.getpid())),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith("asyncio_")),  # a bounded pool
        "traces": sorted(map(str, traces(os.getpid()))),
    }


async def test_thirty_sessions_leave_nothing(sandbox: Sandbox) -> None:
    async def use(number: int) -> None:
        session = await sandbox.session()
        await session.put("in.txt", b"x")
        assert (await session.run(f"n = {number}\nn * 2")).result == str(number * 2)
        await session.get("in.txt")
        await session.close()

    for number in range(3):  # whatever is made once
        await asyncio.gather(use(number), use(number), use(number))
    before = _holdings()
    for number in range(10):
        await asyncio.gather(use(number), use(number), use(number))
    after = _holdings()
    if after != before:  # a zombie of the zygote's is reaped when the zygote next wakes
        changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
        await until(lambda: _holdings() == before, f"nothing is left of {changed}")


async def test_closed_sandbox_leaves_nothing() -> None:
    async with make_sandbox("local", **LIMITS) as sandbox:
        ours = set(zygotes(os.getpid()))
        await sandbox.session()
        (zygote,) = set(zygotes(os.getpid())) - ours
        (first,) = children(zygote)
    await until(lambda: not alive([zygote, first]), "the zygote and its session end")
    with pytest.raises(SandboxError):
        await sandbox.session()


FILL = """
import os
held = open("/workspace/held", "wb", 0)
try:
    while held.write(bytes(1 << 20)): pass
except OSError: pass
try:
    while held.write(b"x"): pass
except OSError: pass
"""
FILL_NAMES = """
import os
number = 0
try:
    while True:
        os.mknod(f"/tmp/{number}")
        number += 1
except OSError: pass
"""


@pytest.mark.parametrize("fill", [FILL, FILL_NAMES], ids=["bytes", "names"])
async def test_session_whose_disk_is_full_still_answers(sandbox: Sandbox, fill: str) -> None:
    session = await sandbox.session()
    await session.put("kept", b"kept")
    await session.run(fill)
    assert (await session.run("6 * 7")).result == "42"
    shown = await session.run("print('x' * 1_000_000)")
    assert shown.status == "ok" and shown.dropped and shown.full_output is None
    with pytest.raises(FileTransferError, match="No space left"):
        await session.put("new", b"x" * 100_000)
    assert await session.get("kept") == b"kept"
    error = (await session.run("open('another', 'w').write('x' * 100_000)")).error
    assert error is not None and "No space left" in error.message
    assert (await session.run("import os\nos._exit(1)")).status == "died"
    fresh = await session.run("open('kept').read()")
    assert (fresh.result, fresh.fresh_kernel) == ("'kept'", True), "a new kernel starts without room"
    await session.run("!rm -f /workspace/held /tmp/11*")
    await session.put("new", b"there is room again")
    await session.close()


def check_full(told: dict[str, object]) -> None:
    assert "No space left" in str(told["refused"]) and "TMPDIR" in str(told["refused"])
    assert told["left"] == [] and told["left at the end"] == []
    assert told["room"] == told["other"] == "42"
    assert told["printed"] == "ok" and "no room" in str(told["notice"])
    assert told["kept"] is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system has to be mounted")
@pytest.mark.parametrize("user", ["root", "ordinary"])
async def test_host_whose_disk_is_full_says_so_and_works_again(tmp_path: Path, user: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    home = home_for_others(tmp_path)
    if user == "root":
        prepare = f'mount -t tmpfs -o {SMALL} tmpfs "$TMPDIR" && exec "$0" -m tests.sandbox.as_user full'
        command = ["unshare", "-m", "sh", "-c", prepare, sys.executable]
        variables = {**os.environ, "TMPDIR": str(small)}
        done = await asyncio.to_thread(subprocess.check_output, command, cwd=REPOSITORY, env=variables, timeout=100)
        check_full(json.loads(done))
    else:
        check_full(json.loads(await asyncio.to_thread(ordinary.run, home, "full", small=small)))


@pytest.mark.skipif(os.geteuid() != 0, reason="this is one already")
async def test_the_same_for_an_ordinary_user(tmp_path: Path) -> None:
    home = home_for_others(tmp_path)
    arguments = ("-q", "-p", "no:cacheprovider", f"--basetemp={home}/tests", "tests/sandbox/test_faults.py")
    chosen = "killed_host or killed_zygote or killed_process or leave_nothing or leaves_nothing or disk_is_full"
    done = await asyncio.to_thread(ordinary.run_module, home, "pytest", *arguments, "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "7 passed" in done.stdout, done.stdout[-500:]
