"""The addresses of a name, and whether one leads out of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from codeact.sandbox.network import is_public

_AT_ONCE = 8


class Resolver:
    """The host's own resolver, asked in threads: nothing can stop a lookup, so that few run at once."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, name: str) -> list[str]:
        """The addresses, best first. Raises OSError where there are none. A lookup given up keeps its place."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        await self._room.acquire()

        def finish(addresses: list[str], error: Exception | None) -> None:
            self._room.release()
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def work() -> None:
            addresses: list[str] = []
            failed: Exception | None = None
            try:
                answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
            except (OSError, UnicodeError) as error:
                failed = OSError(str(error))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, addresses, failed)

        threading.Thread(target=work, name="codeact-lookup", daemon=True).start()
        return await found


def is_outside(address: str) -> bool:
    """Whether the address is one of the open internet and none of this machine's own.

    A machine with a public address serves there what its firewall keeps from others.
    """
    try:
        return is_public(address) and not _is_own(address)
    except (ValueError, OSError):
        return False


def _is_own(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError:
            return False  # no way leads there
        return str(probe.getsockname()[0]) == address
