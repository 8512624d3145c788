"""The host's parts of attacks: what is tried from outside with what the code laid out inside.

The rule is that of the attacks: a part returns what was gained, and returns None or raises SandboxError where there was
nothing. Any other exception means that the host failed, and that is a breach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from codeact.contracts import Session
from codeact.errors import SandboxError

_PATIENCE = 10.0  # seconds for one file
_UPLOADED = "canary-upload"


class Trial(NamedTuple):
    """What a part works with: the attacked session, another one that must not notice, and the facts."""

    session: Session
    neighbour: Session
    facts: dict[str, Any]


Part = Callable[[Trial], Awaitable[str | None]]
PARTS: dict[str, Part] = {}
"""By the attack's name."""


def part(function: Part) -> Part:
    PARTS[function.__name__.replace("_", "-")] = function
    return function


async def _taken(session: Session, path: str) -> bytes | None:
    """What the session lets out under this name, if anything. Raises TimeoutError."""
    with contextlib.suppress(SandboxError):
        return await asyncio.wait_for(session.get(path), _PATIENCE)
    return None


async def _given(session: Session, path: str) -> bool:
    with contextlib.suppress(SandboxError):
        await asyncio.wait_for(session.put(path, b"given"), _PATIENCE)
        return True
    return False


async def _lives(session: Session) -> str | None:
    result = await session.run("6 * 7")
    return None if result.result == "42" else f"the session does not work any more: {result.notice or result.status}"


# --- downloads -----------------------------------------------------------------------------------------------------


@part
async def download_through_links(trial: Trial) -> str | None:
    names = ["file", "passwd", "environment", "process-1", "through-proc", "descriptor", "root", "up", "loop"]
    names += ["root/etc/passwd", "up/etc/passwd", "root/proc/self/environ", "root" + trial.facts["file"], "loop/x"]
    for name in names:
        data = await _taken(trial.session, f"taken/{name}")
        if data is not None:
            return f"{name}: {data[:50]!r}"
    listed = [file.path for file in await trial.session.files() if file.path.startswith("taken")]
    return f"listed as files: {listed}" if listed else None


@part
async def download_of_what_is_no_file(trial: Trial) -> str | None:
    for name in ("folder", "pipe", "socket", "disk", "zero", "terminal", "zeros", "words", "entropy"):
        if await _taken(trial.session, f"odd/{name}") is not None:
            return name
    return await _lives(trial.session)


@part
async def download_of_a_file_that_changes(trial: Trial) -> str | None:
    for _ in range(300):
        data = await _taken(trial.session, "swap/file")
        if data is not None and data != b"own":
            return f"{data[:50]!r}"
        await _given(trial.session, f"swap/folder/{_UPLOADED}")
    return await _strayed(trial)


@part
async def download_without_end(trial: Trial) -> str | None:
    if await _taken(trial.session, "long/nothing") is not None:
        return "a terabyte"
    await _taken(trial.session, "long/growing")
    return await _lives(trial.session)


@part
async def names_of_downloads(trial: Trial) -> str | None:
    files = await asyncio.wait_for(trial.session.files(), _PATIENCE)
    for file in files:
        try:
            file.path.encode()
        except UnicodeEncodeError:
            return f"a name that cannot be written: {file.path!r}"
        parts = Path(file.path).parts
        if Path(file.path).is_absolute() or ".." in parts:
            return f"a name that leads out: {file.path!r}"
        if not parts[-1].isdigit() and file.size == 3 and await _taken(trial.session, file.path) != b"own":
            return f"another file than the one named {file.path!r}"
    return None if files else "no file is listed"


@part
async def directories_without_bottom(trial: Trial) -> str | None:
    await asyncio.wait_for(trial.session.files(), _PATIENCE)
    for path in ("deep/" + "d/" * 1000 + "x", "deep/" + "d/" * 3000 + "x", "made/" * 1500 + "x"):
        await _given(trial.session, path)
        await _taken(trial.session, path)
    return await _lives(trial.session)


# --- uploads -------------------------------------------------------------------------------------------------------


async def _strayed(trial: Trial) -> str | None:
    """What an upload changed where it has nothing to change."""
    bait = Path(trial.facts["file"])
    if bait.read_bytes() != b"bait":
        return "a file of the host was written"
    outside = [Path(folder, _UPLOADED) for folder in (".", "/", tempfile.gettempdir(), Path.home(), bait.parent)]
    outside.append(Path(trial.facts["file"] + ".written"))
    found = [str(path) for path in outside if os.path.lexists(path)]
    if found:
        return f"made on the host: {found}"
    code = f"import os\n[f for f in ('/', '/tmp', '/dev/shm', '/tmp/home') if os.path.lexists(f + '/{_UPLOADED}')]"
    result = await trial.session.run(code)
    return None if result.result == "[]" else f"made outside of the workspace: {result.result or result.notice}"


@part
async def names_of_uploads(trial: Trial) -> str | None:
    name = _UPLOADED
    outside = [
        f"../{name}",
        f"/{name}",
        f"/tmp/{name}",
        f"a/../../{name}",
        f"./../{name}",
        f"//{name}",
        f"../../tmp/{name}",
    ]
    outside += ["", ".", "..", "/", "./", "a/..", f"{tempfile.gettempdir()}/{name}", f"..\0/{name}", f"x\0../{name}"]
    for path in outside:
        if await _given(trial.session, path):
            return f"{path!r} was taken"
    for path in ("a" * 5000, "b" * 150_000, "c" * 2_000_000, "d/" * 70_000 + "x", "\ud800", "\udcff", "e\nf", "-g",
                 "\u202eh", "é" * 90,
                 f"..\\{name}", f"%2e%2e/{name}", "~", "$(id)", "n/" * 40 + "m"):  # fmt: skip
        await _given(trial.session, path)
        await _taken(trial.session, path)
    return await _strayed(trial) or await _lives(trial.session)


@part
async def upload_through_links(trial: Trial) -> str | None:
    names = ["file", "new", "temporary", "shell", "folder", "root", "device", "pipe"]
    names += [f"folder/{_UPLOADED}", f"root/tmp/{_UPLOADED}", f"root{trial.facts['file']}"]
    for name in names:
        if await _given(trial.session, f"given/{name}"):
            return f"{name} was written"
    return await _strayed(trial)


# --- what others lack ----------------------------------------------------------------------------------------------


async def _can(trial: Trial, code: str) -> str | None:
    result = await trial.neighbour.run(code, timeout=20)
    said = result.error.message if result.error else result.notice
    return None if result.result == "True" else f"the neighbour cannot: {said or result.result}"


@part
async def use_up_watches(trial: Trial) -> str | None:
    return await _can(trial, "number = libc.inotify_init()\nnumber >= 0 and not os.close(number)")


@part
async def use_up_processes(trial: Trial) -> str | None:
    return await _can(trial, "subprocess.run(['true']).returncode == 0")


@part
async def use_up_pipes(trial: Trial) -> str | None:
    return await _can(trial, "len(subprocess.check_output(['head', '-c', '1000000', '/dev/zero'])) == 1_000_000")


# --- what is left --------------------------------------------------------------------------------------------------


@part
async def messages_to_process_1(trial: Trial) -> str | None:
    await trial.session.put("x", b"given")
    return None if await _taken(trial.session, "x") == b"given" else "process 1 does not answer as before"


@part
async def bombs_in_what_is_shown(trial: Trial) -> str | None:
    return "a pickle was loaded" if os.path.lexists(trial.facts["file"] + ".pickled") else None
