"""Running a program of these tests as an ordinary user of this machine.

As root that takes some preparation: Python may stand where only root may look, in root's home. So the program runs
in a mount namespace of its own, in which whatever of Python and of this repository is hidden from others is shown at
its place, and nothing else of the directories that hide it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

USER = 12345
SMALL = "size=2m,nr_inodes=64,mode=777"
REPOSITORY = Path(__file__).parents[2]


def _hiding(path: Path) -> Path | None:
    """The directory on the way to ``path`` that others may not pass."""
    for folder in (*reversed(path.parents), path):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def _preparation(home: str, small: str | None) -> str:
    """Shell commands, run as root in a private mount namespace."""
    lines = ["set -e", "hold=$(mktemp -d)", "mount -t tmpfs -o mode=755 tmpfs $hold"]
    needed = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, str(REPOSITORY))}
    hidden = {path: folder for path in needed if (folder := _hiding(path)) is not None}
    for number, path in enumerate(hidden):
        lines.append(f"mkdir $hold/{number}; mount --bind {shlex.quote(str(path))} $hold/{number}")
    for folder in set(hidden.values()):
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(folder))}")
    for number, path in enumerate(hidden):
        lines.append(f"mkdir -p {shlex.quote(str(path))}; mount --bind $hold/{number} {shlex.quote(str(path))}")
    lines.append("umount -l $hold; rmdir $hold")
    lines.append(f"chown {USER}:{USER} {shlex.quote(home)}; export HOME={shlex.quote(home)}")
    if small is not None:
        lines.append(f"mount -t tmpfs -o {SMALL} tmpfs {shlex.quote(small)}; export TMPDIR={shlex.quote(small)}")
    lines.append(f'exec setpriv --reuid {USER} --regid {USER} --clear-groups -- "$@"')
    return "\n".join(lines)


def run(home: Path, *arguments: str, small: Path | None = None, timeout: float = 100) -> str:
    """Run ``python -m tests.sandbox.as_user ARGUMENTS`` as an ordinary user whose home is ``home``; its output.

    ``small`` (as root only) becomes a small file system and the directory for temporary files.
    Raises AssertionError with what the program said where it failed.
    """
    done = run_module(home, "tests.sandbox.as_user", *arguments, small=small, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_module(
    home: Path,
    module: str,
    *arguments: str,
    variables: Mapping[str, str] = MappingProxyType({}),
    small: Path | None = None,
    timeout: float = 100,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ARGUMENTS`` as that user, with these environment variables added."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home), **variables}
    if os.geteuid() == 0:
        command = ["unshare", "-m", "sh", "-c", _preparation(str(home), str(small) if small else None), "sh", *command]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout)
