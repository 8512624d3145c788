"""Kernels that are not ours: what an installed kernelspec starts, and what of the host a session has to see for it.

Source: Jupyter kernelspecs (jupyter-client.readthedocs.io/en/stable/kernels.html).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from codeact.contracts import Value
from codeact.errors import UsageError
from codeact.sandbox import command

PROVISIONER = "codeact-local"
"""The name of our provisioner's entry point, by which a kernelspec asks for it."""

REFUSE = ("-m", "codeact", "kernelspec", "refuse")
"""What our own kernelspecs start where a client ignores provisioners: a program that says so and ends."""

_VISIBLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # in every session, see isolation.py
_HELD_BACK = ("/", "/boot", "/etc", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/tmp")
_HELD_BACK_WHOLE = ("/dev", "/proc", "/run", "/sys")
_PRIVATE = (".cache", ".config", ".gnupg", ".local", ".local/share", ".ssh")  # of the home directory
_NEEDED_BY = {"R": ("/etc/R/ldpaths", "/etc/R/Renviron")}
"""By the name of an executable, files outside of its prefix without which it does not start. Debian's R keeps its
start-up files in /etc; those of the site, which may hold secrets, stay out."""


class Foreign(Value):
    """The kernel of an installed kernelspec. ``readable`` are the host paths that a session has to see for it."""

    name: str
    display_name: str
    language: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    interrupt_mode: Literal["signal", "message"]
    readable: tuple[str, ...]

    def request(self, key: str, ports: Mapping[str, int]) -> dict[str, Any]:
        """What process 1 is told in order to start it, besides the environment; ``ports`` by channel."""
        connection: dict[str, Any] = {f"{channel}_port": port for channel, port in ports.items()}
        connection |= {"transport": "tcp", "ip": command.ADDRESS, "key": key, "signature_scheme": "hmac-sha256"}
        connection["kernel_name"] = self.name
        variables = dict(self.env)
        programs = os.path.dirname(self.argv[0])
        # what is installed beside it is meant to be found, as in an activated environment
        if not _is_visible(programs) and programs != os.path.dirname(sys.executable):
            variables.setdefault("PATH", f"{programs}:${{PATH}}")
        return {"argv": self.argv, "variables": variables, "connection": connection}


def find(name: str) -> Foreign | None:
    """The kernel that is installed under this name, None for our own. Raises UsageError where there is none."""
    return of_spec(name, installed(name))


def installed(name: str) -> KernelSpec:
    """The kernelspec of this name. Raises UsageError."""
    manager = KernelSpecManager()
    try:
        with warnings.catch_warnings():  # of traitlets, about what the file says beyond the standard
            warnings.simplefilter("ignore", DeprecationWarning)
            return manager.get_kernel_spec(name)
    except NoSuchKernel as error:
        there = ", ".join(sorted(manager.find_kernel_specs())) or "none"
        raise UsageError(f"no kernel {name!r} is installed; there is {there} (jupyter kernelspec list)") from error
    except Exception as error:  # whatever the file holds: JSON, traits and the file system all have words of their own
        raise UsageError(f"the kernelspec {name!r} cannot be read: {error}") from error


def of_spec(name: str, spec: KernelSpec) -> Foreign | None:
    """The kernel that this kernelspec starts, None for our own. Raises UsageError for what cannot be run."""
    inner = configuration(spec).get("kernel")
    if inner is not None:
        name, spec = str(inner), installed(str(inner))
        if configuration(spec).get("kernel") is not None:
            raise UsageError(f"the kernelspec {name!r} only names another one: name that one")
    argv = [str(part) for part in spec.argv]
    if tuple(argv[1 : 1 + len(REFUSE)]) == REFUSE:
        return None
    if not argv:
        raise UsageError(f"the kernelspec {name!r} starts nothing: its argv is empty")
    known = {"connection_file": command.CONNECTION_FILE, "resource_dir": spec.resource_dir, "prefix": sys.prefix}
    argv = [re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), part) for part in argv]
    argv[0] = _executable(name, argv[0])
    resources = [spec.resource_dir] if spec.resource_dir and any(spec.resource_dir in part for part in argv) else []
    wanted = [*_prefixes(argv[0]), *resources, *_told(name, spec)]
    paths = [path for path in wanted if not _is_visible(path)]
    for path in paths:
        _check(name, path)
    needed = [path for path in _NEEDED_BY.get(Path(argv[0]).name, ()) if os.path.exists(path)]
    return Foreign(
        name=name,
        display_name=spec.display_name or name,
        language=spec.language or name,
        argv=tuple(argv),
        env={str(variable): str(value) for variable, value in spec.env.items()},
        interrupt_mode="message" if spec.interrupt_mode == "message" else "signal",
        readable=tuple(dict.fromkeys([*map(str, paths), *needed])),
    )


def configuration(spec: KernelSpec) -> dict[str, Any]:
    """What a kernelspec has our provisioner do; empty where it names another one or none."""
    stanza = spec.metadata.get("kernel_provisioner", {})
    return dict(stanza.get("config", {})) if stanza.get("provisioner_name") == PROVISIONER else {}


def _executable(name: str, program: str) -> str:
    """The whole path of a program: what the host finds by a name need not be found inside."""
    if re.fullmatch(r"python(3(\.\d+)?)?", program):  # as jupyter_client has it: the Python that runs this
        return sys.executable
    found = shutil.which(program)
    if found is None:
        raise UsageError(f"the kernelspec {name!r} starts {program}, which is not there")
    return os.path.abspath(found)


def _prefixes(executable: str) -> list[str]:
    """The installations that a program belongs to: where it stands, and where it leads to."""
    places = dict.fromkeys((Path(executable), Path(executable).resolve()))
    return [str(p.parents[1] if p.parent.name == "bin" else p.parent) for p in places if not _is_visible(str(p))]


def _told(name: str, spec: KernelSpec) -> list[str]:
    """Paths that the kernelspec itself says are needed: ``metadata.codeact.readable``."""
    listed = spec.metadata.get("codeact", {}).get("readable", [])
    if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
        raise UsageError(f"the kernelspec {name!r}: metadata.codeact.readable is a list of paths")
    return [os.path.abspath(os.path.expanduser(path)) for path in listed]


def _is_visible(path: str) -> bool:
    return any(Path(path).is_relative_to(root) for root in _VISIBLE)


def _check(name: str, path: str) -> None:
    """Raises UsageError where a session that sees this path would see more than a kernel's installation."""
    home = Path.home().resolve()
    try:
        real = Path(path).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"the kernel {name!r} cannot run in the sandbox: it needs {path}: {error}") from error
    private = {home, *home.parents, *(home / part for part in _PRIVATE)}
    whole = any(place.is_relative_to(root) for root in _HELD_BACK_WHOLE for place in (Path(path), real))
    if whole or real in private or str(real) in _HELD_BACK:
        raise UsageError(
            f"the kernel {name!r} cannot run in the sandbox: it needs {real}, which holds more than the kernel; "
            "install it in a directory of its own"
        )
