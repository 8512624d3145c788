"""Inside a session: the kernel of an installed kernelspec takes the place of the fork, and the way to its ports.

Such a kernel knows nothing of inherited sockets. It reads a connection file and listens on 127.0.0.1 of the session's
own network namespace; process 1 opens connections there and hands them to the host.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping
from string import Template
from typing import Any, NoReturn

ADDRESS = "127.0.0.1"
CONNECTION_FILE = "/tmp/home/kernel.json"


def execute(request: Mapping[str, Any]) -> NoReturn:
    """Become the program ``request["argv"]``, its environment being set but for ``request["variables"]``.

    In those, ``${NAME}`` means a variable of this session. Raises OSError where there is no such program.
    """
    _write_connection_file(request["connection"])
    expanded = {name: Template(value).safe_substitute(os.environ) for name, value in request["variables"].items()}
    os.environ.update(expanded)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a program would inherit that
        signal.signal(number, signal.SIG_DFL)
    os.execvp(request["argv"][0], request["argv"])


def _write_connection_file(connection: Mapping[str, Any]) -> None:
    descriptor = os.open(CONNECTION_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w") as file:
        json.dump(connection, file)


def connect(port: int) -> int:
    """The descriptor of a connection to that port, on its way: whoever listens there is not waited for."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.connect((ADDRESS, port))
        except BlockingIOError:
            pass
        return connection.detach()
