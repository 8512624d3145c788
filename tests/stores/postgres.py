"""A real PostgreSQL for tests, from the machine's own package, as an ordinary user, on a Unix socket only."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return Path(named).resolve().parent if named else None


MISSING = "PostgreSQL is not installed: apt-get install postgresql"


class Postgres:
    """One server with its data in a new directory; ``kill`` ends it as ``kill -9`` does, ``start`` starts it again."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self._bin = found
        self.home = Path(tempfile.mkdtemp(prefix="codeact-pg-", dir="/tmp"))  # a socket's path must be short
        self._identity: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL refuses root
            user = pwd.getpwnam("nobody")
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.home, user.pw_uid, user.pw_gid)
        self._data = self.home / "data"
        self._run("initdb", "-D", str(self._data), "-U", "codeact", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        self._server = 0

    def start(self) -> None:
        """Start it and wait until it answers."""
        # what a process wrote outlives its kill without fsync, which is for a loss of power and takes long
        options = f"-k {self.home} -h '' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self.home / "log"), "-o", options, "-w", "start")
        self._server = int((self._data / "postmaster.pid").read_text().split()[0])

    def create(self) -> str:
        """A new schema to put a store in; its name. (Databases take long to make and to remove.)"""
        name = f"test_{secrets.token_hex(8)}"
        self.psql(f"CREATE SCHEMA {name}")
        return name

    def url(self, schema: str) -> str:
        return f"postgresql://codeact@/postgres?host={self.home}&options=-csearch_path%3D{schema}"

    def psql(self, *statements: str) -> str:
        """Run statements from outside of the store."""
        place = ("-h", str(self.home), "-U", "codeact", "-d", "postgres", "-v", "ON_ERROR_STOP=1")
        return self._run("psql", *place, *(word for statement in statements for word in ("-c", statement)))

    def kill(self) -> None:
        """Kill the server and every process of it."""
        children = Path(f"/proc/{self._server}/task/{self._server}/children").read_text().split()
        processes = [os.pidfd_open(pid) for pid in (self._server, *map(int, children)) if Path(f"/proc/{pid}").exists()]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        for process in processes:
            assert select.select([process], [], [], 30)[0], "the server outlives its kill"
            os.close(process)
        # where nobody takes notice of a dead process, its number stays and these files would seem to be in use
        for lock in (self._data / "postmaster.pid", *self.home.glob(".s.PGSQL.*.lock")):
            lock.unlink()
        self._server = 0

    def close(self) -> None:
        if self._server:
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.home)

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._bin / program), *arguments]
        with tempfile.TemporaryFile("w+") as told:  # a file: the server inherits it and stays
            done = subprocess.run(
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                timeout=60,
                **self._identity,
            )
            told.seek(0)
            text = told.read()
        assert done.returncode == 0, f"{program}: {text}"
        return text
