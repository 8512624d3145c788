"""Attacks on a sandbox, as plain functions in one module a family. The package is copied into the sandbox and called
there, one attack after the other.

Each function tries one escape. It returns what it got where the escape succeeded, and returns None or raises OSError
(or what the exhaustion of a resource raises) where it was refused. Any other exception is a mistake in the attack and
counts as undecided, so that a broken attack never looks like a boundary that held.

Of some attacks success shows on the host: what they leave behind is then tried by the host's part of the attack, which
stands under the same name in ``codeact.sandbox.hostparts``.

Only the standard library is used, and nothing of codeact (the family ``protocol`` uses the kernel's own objects): the
package works in every backend that runs Python. ``facts`` tells what there is to be found on the host; see
``codeact.sandbox.canaries``.

A call of the kernel that a boundary must refuse is made with arguments that cannot succeed. EPERM, EACCES and ENOSYS
mean that it was refused; any other error means that the kernel went on to look at the arguments.
"""

from __future__ import annotations

from codeact.sandbox.attacks import (  # each registers its attacks
    calls,
    filesystem,
    layout,
    messages,
    neighbours,
    network,
    processes,
    protocol,
    resources,
    secrets,
    transfer,
    wire,
)
from codeact.sandbox.attacks.ground import ATTACKS, attempt

__all__ = [
    "ATTACKS", "attempt",
    "calls", "filesystem", "layout", "messages", "neighbours", "network", "processes", "protocol", "resources",
    "secrets", "transfer", "wire",
]  # fmt: skip
