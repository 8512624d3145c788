"""Where code runs: one file a backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codeact import contracts
from codeact.errors import UsageError

KINDS = ("local", "unsafe-process")


def Sandbox(
    kind: str = "local",
    *,
    kernel: str | None = None,
    network: str = "none",
    allow_net: str | Iterable[str] = (),
    key: str | None = None,
    **limits: Any,
) -> contracts.Sandbox:
    """The sandbox of that kind: ``local`` (isolated, Linux) or ``unsafe-process`` (no boundary);
    or an engine by its URL, ``http://host:8081``, with a ``key`` of it (variable CODEACT_ENGINE_KEY).

    ``kernel`` names an installed Jupyter kernelspec ("ir", "bash") to run within the boundary of ``local`` in the place
    of our own Python.
    ``limits`` are those of ``codeact.sandbox.limits.Limits``: ``memory``, ``disk`` and ``file`` in bytes,
    ``processes``, ``open_files``, ``timeout`` in seconds. ``network`` is ``none`` or ``host``; ``allow_net`` allows
    hosts by name: rules of ``codeact.sandbox.network``. Without a boundary the network is the host's in any case.
    Nothing starts before the first session. Raises UsageError for an unknown kind, limit, kernel or network.
    """
    if is_url(kind):
        from codeact.sandbox.remote import remote

        return remote(kind, key, network, allow_net, kernel=kernel, **limits)
    if key is not None:
        raise UsageError("a key is for an engine: name it by its URL, http://host:8081")
    from codeact.sandbox.limits import Limits
    from codeact.sandbox.network import Network

    try:
        limit = Limits(**limits)
    except ValueError as error:
        raise UsageError(f"bad limit for the sandbox: {_first(error)}") from error
    reach = Network.of(network, allow_net, kind)
    if kind == "local":
        from codeact.sandbox.local import LocalSandbox

        return LocalSandbox(limit, reach, kernel)
    if kernel is not None:
        raise UsageError(f"only the sandbox local runs another kernel such as {kernel!r}")
    if kind == "unsafe-process":
        from codeact.sandbox.process import ProcessSandbox

        return ProcessSandbox(limit)
    raise UsageError(f"no sandbox of kind {kind!r}; there is {', '.join(KINDS)}")


def is_url(kind: str) -> bool:
    """Whether this names an engine."""
    return kind.startswith(("http://", "https://"))


def _first(error: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error)
