"""The file that names MCP servers, in the common ``mcpServers`` form.

    {"mcpServers": {
        "files": {"command": "mcp-files", "args": ["--root", "/data"], "env": {"TOKEN": "${FILES_TOKEN}"}},
        "tickets": {"url": "https://tickets.example/mcp", "headers": {"Authorization": "Bearer ${TICKETS_TOKEN}"}}
    }}

``${NAME}`` in ``env``, ``headers``, ``args`` and ``url`` is the variable of our environment; ``${NAME:-text}`` has a
default. Keys that other programs know (``autoApprove`` …) are passed over.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codeact.errors import UsageError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MOST_SERVERS = 100
_HTTP = ("http", "https", "streamable-http", "streamable_http", "streamableHttp")

_Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class _Server(BaseModel):
    """``timeout``: seconds that one call may take; None: as the reader of the file decides."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    timeout: _Seconds | None = None


class StdioServer(_Server):
    """A program of this machine that talks over its stdin and stdout. ``env`` is added to a minimal environment."""

    command: str = Field(min_length=1)
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = Field(default_factory=dict)
    cwd: str | None = None


class HttpServer(_Server):
    """A server reached over streamable HTTP."""

    url: str = Field(pattern=r"^https?://[^/\s]+")
    headers: Mapping[str, str] = Field(default_factory=dict)


ServerConfig: TypeAlias = StdioServer | HttpServer


def read(path: str | os.PathLike[str]) -> dict[str, ServerConfig]:
    """The servers of a file by their names. Raises UsageError naming the file, the server and the remedy."""
    file = Path(path).expanduser()
    try:
        found = json.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {file} of MCP servers") from error
    except OSError as error:
        raise UsageError(f"the file of MCP servers {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the file of MCP servers {file} is not JSON: {error}") from error
    try:
        return parse(found)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def parse(found: object, variables: Mapping[str, str] | None = None) -> dict[str, ServerConfig]:
    """The servers of what such a file holds; ``variables`` in the place of our environment. Raises UsageError."""
    servers = found.get("mcpServers") if isinstance(found, dict) else None
    if not isinstance(servers, dict):
        raise UsageError('an object {"mcpServers": {NAME: {"command" or "url": …}}} is expected')
    if len(servers) > _MOST_SERVERS:
        raise UsageError(f"{len(servers)} MCP servers are more than the {_MOST_SERVERS} that are allowed")
    known = os.environ if variables is None else variables
    return {
        name: _server(name, given, known)
        for name, given in servers.items()
        if not (isinstance(given, dict) and given.get("disabled") is True)
    }


def _server(name: str, given: object, variables: Mapping[str, str]) -> ServerConfig:
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UsageError(f"{name[:100]!r} is no name for an MCP server: use letters and digits")
    if not isinstance(given, dict):
        raise UsageError(f'the MCP server {name!r} must be an object with "command" or "url"')
    kind = given.get("type", given.get("transport"))
    if kind == "sse":
        raise UsageError(
            f"the MCP server {name!r} asks for the retired SSE transport: give its streamable HTTP address, "
            'with "type": "http"'
        )
    if kind not in (None, "stdio", *_HTTP):
        raise UsageError(f'the MCP server {name!r} has an unknown "type" {str(kind)[:50]!r}: use "stdio" or "http"')
    if ("command" in given) == ("url" in given):
        raise UsageError(f'the MCP server {name!r} needs either "command" (stdio) or "url" (streamable HTTP)')
    if kind is not None and (kind == "stdio") != ("command" in given):
        raise UsageError(
            f'the MCP server {name!r} is of "type" {kind!r} and has "{"url" if "url" in given else "command"}"'
        )
    try:
        expanded = {key: _expand(value, variables) for key, value in given.items() if key not in ("command", "cwd")}
    except KeyError as error:
        raise UsageError(f"the MCP server {name!r} needs the environment variable {error.args[0]}: set it") from error
    whole: dict[str, Any] = {**given, **expanded}
    try:
        return StdioServer.model_validate(whole) if "command" in given else HttpServer.model_validate(whole)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"the MCP server {name!r}: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def _expand(value: object, variables: Mapping[str, str]) -> object:
    """``value`` with its variables put in. Raises KeyError with the name of one that is not set."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda m: variables.get(m[1], m[2]) if m[2] is not None else variables[m[1]], value)
    if isinstance(value, list):
        return [_expand(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, variables) for key, item in value.items()}
    return value
