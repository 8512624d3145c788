"""A session's own Python environment: where ``pip`` installs, in front of the packages that the host shares read-only.

It is a virtual environment in the session's home, written by hand in a handful of files: making one with ``venv`` takes
longer than starting the session. Packages of the host count as installed in it, can be replaced by other versions of
the session's own, and are never removed, for they lie outside of it. It is gone with the session.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import site
import sys
from pathlib import Path

PLACE = "/tmp/home/.venv"

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = f"{PLACE}/lib/{_VERSION}/site-packages"
_PIP = f'#!/bin/sh\nexec {PLACE}/bin/python -m pip "$@"\n'
_NO_PIP = 'raise SystemExit("pip is not installed where codeact runs: install it there, then start codeact anew")\n'


def make() -> None:
    """Write it. To be called inside a session, before any code runs."""
    interpreter, texts = plan()
    os.makedirs(_PACKAGES)
    os.mkdir(f"{PLACE}/bin")
    os.symlink("lib", f"{PLACE}/lib64")
    for name in ("python", "python3", _VERSION):
        os.symlink(interpreter, f"{PLACE}/bin/{name}")
    for path, text in texts.items():
        with open(path, "w") as file:
            file.write(text)
    for name in ("pip", "pip3"):
        os.chmod(f"{PLACE}/bin/{name}", 0o755)


@functools.cache
def plan() -> tuple[str, dict[str, str]]:
    """The interpreter and the files with their texts: what is the same in all sessions, found out once."""
    interpreter = os.path.realpath(sys.executable)
    lines = [f"import site; site.addsitedir({path!r})" for path in _outer()]
    texts = {
        f"{PLACE}/pyvenv.cfg": f"home = {os.path.dirname(interpreter)}\ninclude-system-site-packages = false\n",
        f"{PLACE}/bin/pip": _PIP,
        f"{PLACE}/bin/pip3": _PIP,
    }
    if importlib.util.find_spec("pip") is None:
        wheel = _bundled_pip()
        if wheel:
            lines.append(wheel)
        else:
            texts[f"{_PACKAGES}/pip.py"] = _NO_PIP
    texts[f"{_PACKAGES}/outer.pth"] = "".join(f"{line}\n" for line in lines)
    return interpreter, texts


def enter() -> None:
    """Make this process one of the environment, as far as a Python that has started already can be."""
    outer = _outer()
    at = next((i for i, path in enumerate(sys.path) if path in outer), len(sys.path))
    sys.path.insert(at, _PACKAGES)
    sys.executable = f"{PLACE}/bin/python"
    sys.prefix = sys.exec_prefix = PLACE
    site.PREFIXES[:] = [PLACE]


def _outer() -> list[str]:
    """The directories of packages that this Python began with."""
    found = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [path for path in found if path in sys.path]


def _bundled_pip() -> str | None:
    """The pip that comes with Python to be installed from, and runs as it is."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next((str(path) for path in Path(spec.origin).parent.glob("_bundled/pip-*.whl")), None)
