"""Jupyter's own programs in a directory of their own, with the kernelspecs that a test installs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from codeact.sandbox import provisioner
from codeact.sandbox.kernelspec import PROVISIONER


def variables(place: Path) -> dict[str, str]:
    """Variables with which Jupyter keeps all of its files below ``place``, and finds kernelspecs there."""
    return {
        "JUPYTER_PATH": str(place / "share" / "jupyter"),
        "JUPYTER_DATA_DIR": str(place / "data"),
        "JUPYTER_RUNTIME_DIR": str(place / "runtime"),
        "JUPYTER_CONFIG_DIR": str(place / "config"),
        "IPYTHONDIR": str(place / "ipython"),
    }


def install(place: Path, *options: str) -> None:
    """Run ``codeact kernelspec install`` for ``place``."""
    command = [sys.executable, "-m", "codeact", "kernelspec", "install", "--prefix", str(place), *options]
    environment = {**os.environ, **variables(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def surroundings(more: Mapping[str, str]) -> Iterator[None]:
    """These variables in the environment of the tests themselves."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def installed_kernelspec(place: Path, *options: str) -> Iterator[None]:
    """Our kernelspec in place, and jupyter_client looking for it there."""
    registered = entry_points(group="jupyter_client.kernel_provisioners", name=PROVISIONER)
    assert registered, "the provisioner is not registered: install the project again (pip install --editable .)"
    install(place, *options)
    with surroundings(variables(place)):
        yield
    provisioner.close()
