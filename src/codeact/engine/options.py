"""What the engine allows: of itself, of each session, of each request."""

from __future__ import annotations

from pydantic import Field

from codeact.contracts import Value
from codeact.sandbox.limits import Limits


class Options(Value):
    """Times in seconds, sizes in bytes.

    ``limits`` are those of a session that asks for none, and the most that one can ask for; ``max_timeout`` is the most
    that one execution can ask for. ``network`` and ``allow_net``: what sessions may ask for.
    """

    max_sessions: int = Field(1000, ge=1)
    max_executions: int = Field(32, ge=1)
    """At once, of all sessions; more wait, fairly by owner."""
    max_waiting: int = Field(1000, ge=0)
    """Executions that wait; more are refused."""
    max_waiting_session: int = Field(64, ge=0)
    max_starts: int = Field(4, ge=1)
    """Kernels that are being started at once."""
    max_wait: float = Field(600.0, gt=0)
    """Until an execution that waits is given up."""
    idle: float = Field(600.0, gt=0)
    """Until a session that nobody uses ends."""
    age: float = Field(86400.0, gt=0)
    """Until a session ends in any case."""
    drain: float = Field(20.0, ge=0)
    """For running code to finish when the engine is asked to stop."""
    max_timeout: float = Field(3600.0, gt=0)
    max_code: int = Field(1 << 20, ge=1)
    max_body: int = Field(64 << 20, ge=1 << 10)
    """Of a request other than an upload, whose limit is that of files."""
    max_output: int = Field(32 << 20, ge=1 << 16)
    """Of the result of one execution, as JSON."""
    buffer: int = Field(4 << 20, ge=1 << 10)
    """Events of one execution that are kept for a client that reads late."""
    keep: float = Field(300.0, gt=0)
    """How long the events of an execution that has ended are kept."""
    call: float = Field(300.0, gt=0)
    """For the client to answer a call of a host tool."""
    request: float = Field(60.0, gt=0)
    """Until the next piece of a request has to be there."""
    limits: Limits = Limits()
    network: str = "none"
    allow_net: tuple[str, ...] = ()
