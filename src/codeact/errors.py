"""Every exception that codeact raises on purpose.

An error in the *model's* code is an observation, never one of these. These say that something around it broke.

    CodeActError
    ├── UsageError              the caller asked for something that cannot be (bad option, missing file, missing extra)
    ├── TrajectoryError         a trajectory file is broken or of a version that this release does not read
    ├── ModelError              the model server failed
    │   ├── ModelUnavailable        no server answers there, or it went on failing after all retries
    │   ├── ModelRefused            the server refused the request (wrong key, unknown model, bad request)
    │   │   └── ContextOverflow         the prompt is larger than the model's window
    │   ├── ModelTimeout            the server accepted the request and went silent
    │   └── ReplayDeparted          a recorded model was asked something that its recording does not hold
    ├── SandboxError            the sandbox failed (not the code inside it)
    │   ├── IsolationUnavailable    the isolation asked for cannot be had on this machine: nothing was run
    │   ├── KernelStartError        the kernel did not come up
    │   ├── SessionClosed           the session was closed, or its sandbox was
    │   │   └── StateLost               it ended without its user's wish: its variables and files are gone
    │   └── FileTransferError       a file could not be put into or taken out of the workspace
    ├── StoreError              the store of conversations failed or refused
    │   ├── StoreUnavailable        its database does not answer, or has no room or no rights
    │   ├── StoreVersionError       it was made by a newer release
    │   ├── StoreConflict           another writer was first: nothing was written
    │   ├── NotStored               it holds no such conversation or file
    │   └── StoreRefused            what was given cannot be kept: too large, not valid, not an archive
    └── ToolError               a host tool refused or failed; its message is what the code in the sandbox sees
"""

from __future__ import annotations


class CodeActError(Exception):
    """Base of all exceptions raised on purpose. ``str(error)`` is one line that a user can act on."""


class UsageError(CodeActError):
    """The caller asked for something that cannot be."""


class TrajectoryError(CodeActError):
    """A trajectory file is broken or of an unknown version."""


class ModelError(CodeActError):
    """The model server failed."""


class ModelUnavailable(ModelError):
    """No model server answers, or it went on failing after all retries."""


class ModelRefused(ModelError):
    """The server refused the request: wrong key, unknown model, bad request."""


class ContextOverflow(ModelRefused):
    """The prompt does not fit the model's window.

    ``prompt_tokens`` and ``context_window`` are what the server said, where it said so.
    """

    def __init__(self, message: str, prompt_tokens: int | None = None, context_window: int | None = None) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.context_window = context_window


class ModelTimeout(ModelError):
    """The server accepted the request and then sent nothing for longer than the limit."""


class ReplayDeparted(ModelError):
    """The conversation departs from the recording that plays the model."""


class SandboxError(CodeActError):
    """The sandbox failed. Not raised for errors in the code that runs inside."""


class IsolationUnavailable(SandboxError):
    """The isolation asked for cannot be had here; nothing was run. The message names the remedy."""


class KernelStartError(SandboxError):
    """The kernel did not come up."""


class SessionClosed(SandboxError):
    """The session or its sandbox is closed."""


class StateLost(SessionClosed):
    """The session ended without its user's wish (a crash, a limit, a restart): its variables and files are gone."""


class FileTransferError(SandboxError):
    """A file could not be put into or taken out of the workspace (missing, too large, no space, not a file)."""


class StoreError(CodeActError):
    """The store of conversations failed or refused."""


class StoreUnavailable(StoreError):
    """The store's database does not answer, or it has no room or no rights. Whether a write was kept is not known."""


class StoreVersionError(StoreError):
    """The store was made by a newer release; nothing in it was touched."""


class StoreConflict(StoreError):
    """Another writer was first, and nothing was written. ``head`` is the conversation's last sequence number now."""

    def __init__(self, message: str, head: int) -> None:
        super().__init__(message)
        self.head = head


class NotStored(StoreError):
    """The store holds no such conversation or file."""


class StoreRefused(StoreError):
    """What was given cannot be kept or read: too large, not valid, not an archive. Nothing was written."""


class ToolError(CodeActError):
    """A host tool refused or failed. The code in the sandbox sees this message as an exception.

    ``kind`` says which: ``arguments``, ``refused``, ``quota``, ``timeout``, or ``failed`` for all else. ``type_name``
    is the type of the tool's own exception, where it raised one.
    """

    def __init__(self, message: str, kind: str = "failed", type_name: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.type_name = type_name
