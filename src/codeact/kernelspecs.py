"""The sandbox as a kernel for Jupyter: puts kernelspecs in place, lists them and removes them."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from codeact.errors import SandboxError, UsageError
from codeact.sandbox.kernelspec import PROVISIONER, REFUSE, Foreign, find, installed

Place = tuple[bool, bool, Path | None]  # --user, --sys-prefix, --prefix


def install(place: Place, kernel: str | None, name: str | None, display_name: str | None, memory: int | None) -> int:
    """Write a kernelspec. Raises UsageError where that cannot be."""
    user, sys_prefix, prefix = place
    if user + sys_prefix + (prefix is not None) > 1:
        raise UsageError("--user, --sys-prefix and --prefix contradict each other: choose one")
    if memory is not None and memory < 128:
        raise UsageError("--memory: a session needs at least 128 MiB")
    name = name or ("codeact" if kernel is None else f"codeact-{kernel}")
    if re.fullmatch(r"[A-Za-z0-9._-]+", name) is None:
        raise UsageError(f"--name: {name!r} is no name for a kernelspec: letters, digits, dots, - and _ are")
    _unless_another(name)
    foreign = find(kernel) if kernel is not None else None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # its mode is copied, and others may have to read it
        Path(folder, "kernel.json").write_text(json.dumps(_spec(foreign, kernel, display_name, memory), indent=1))
        try:
            where = KernelSpecManager().install_kernel_spec(
                folder, name, user=user, prefix=None if user else str(prefix or sys.prefix)
            )
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}; try --user or --prefix DIR") from error
    typer.echo(f"installed {name} in {where}")
    return 0


def _spec(foreign: Foreign | None, kernel: str | None, display_name: str | None, memory: int | None) -> dict[str, Any]:
    shown = foreign.display_name if foreign else "Python"
    config: dict[str, Any] = {"memory": memory << 20} if memory is not None else {}
    if kernel is not None:
        config["kernel"] = kernel
    return {
        "argv": [sys.executable, *REFUSE, "{connection_file}"],
        "display_name": display_name or f"{shown} (codeact sandbox)",
        "language": foreign.language if foreign else "python",
        "interrupt_mode": foreign.interrupt_mode if foreign else "signal",
        "metadata": {"kernel_provisioner": {"provisioner_name": PROVISIONER, "config": config}},
    }


def _ours() -> dict[str, KernelSpec]:
    manager = KernelSpecManager()
    found = {}
    for name in sorted(manager.find_kernel_specs()):
        try:
            spec = installed(name)
        except UsageError:  # another one's broken file
            continue
        if spec.metadata.get("kernel_provisioner", {}).get("provisioner_name") == PROVISIONER:
            found[name] = spec
    return found


def _unless_another(name: str) -> None:
    """Raises UsageError where a kernelspec that is not ours has the name."""
    if name in KernelSpecManager().find_kernel_specs() and name not in _ours():
        raise UsageError(f"there is another kernel {name!r} already: choose another name with --name")


def show() -> int:
    for name, spec in _ours().items():
        typer.echo(f"{name:20}{spec.display_name:40}  {spec.resource_dir}")
    return 0


def remove(name: str) -> int:
    """Remove a kernelspec of ours. Raises UsageError for any other."""
    if name not in _ours():
        raise UsageError(f"no kernelspec {name!r} of codeact is installed; see: codeact kernelspec list")
    try:
        typer.echo(f"removed {KernelSpecManager().remove_kernel_spec(name)}")
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    return 0


def refuse() -> int:
    """Raises SandboxError."""
    raise SandboxError(
        f"this kernel runs in a sandbox only, and this client ignored the kernelspec's provisioner {PROVISIONER}: "
        "nothing was started; use a client with jupyter_client 7 or newer and codeact in its environment"
    )
