"""Why the engine refuses a request, and how each error is told over HTTP."""

from __future__ import annotations

from codeact.errors import (
    CodeActError,
    FileTransferError,
    IsolationUnavailable,
    KernelStartError,
    SandboxError,
    SessionClosed,
    StateLost,
    UsageError,
)


class Refused(CodeActError):
    """A request that is refused. ``cause`` is counted; ``retry_after`` in seconds where trying again may help."""

    def __init__(self, status: int, cause: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.retry_after = retry_after


def full(cause: str, message: str, retry_after: int = 2) -> Refused:
    return Refused(429, cause, message, retry_after)


def not_found(message: str) -> Refused:
    return Refused(404, "not_found", message)


_TOLD: tuple[tuple[type[CodeActError], int, str], ...] = (
    (StateLost, 410, "state_lost"),
    (SessionClosed, 410, "session_closed"),
    (FileTransferError, 422, "file_transfer"),
    (IsolationUnavailable, 503, "isolation_unavailable"),
    (KernelStartError, 503, "kernel_start"),
    (SandboxError, 503, "sandbox_failed"),
    (UsageError, 422, "usage"),
)


def told(error: CodeActError) -> tuple[int, str]:
    """The status and the code for an error."""
    if isinstance(error, Refused):
        return error.status, error.cause
    for kind, status, code in _TOLD:
        if isinstance(error, kind):
            return status, code
    return 500, "internal"
