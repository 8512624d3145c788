"""Model servers of this machine, found by asking their usual ports."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LOCAL_PORTS: Mapping[str, int] = {"Ollama": 11434, "llama.cpp": 8080, "vLLM": 8000, "LM Studio": 1234}
"""Default ports, in the order in which servers are preferred."""

_OWNERS = {"library": "Ollama", "llamacpp": "llama.cpp", "vllm": "vLLM", "organization_owner": "LM Studio"}
_MAX_ANSWER = 4 * 1024 * 1024


@dataclass(frozen=True)
class LocalServer:
    """A server that answers: what it is, its base URL (with ``/v1``), and its models, embedding models left out."""

    kind: str
    base_url: str
    models: tuple[str, ...]


async def find_local_servers(
    timeout: float = 0.5, *, ports: Mapping[str, int] = LOCAL_PORTS, host: str = "127.0.0.1"
) -> list[LocalServer]:
    """The model servers on this machine, in the order of ``ports``. Takes at most ``timeout`` seconds, never raises.

    A server that has no model yet is listed with none. Whatever else listens on these ports is left out. Anybody who
    can listen on a port of this machine can pose as a model server.
    """
    import openai

    # Ready before the clock starts: loading the library and its certificates takes as long as the answers may.
    async with openai.DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False) as client:
        found = await asyncio.gather(
            *(_ask(client, kind, f"http://{host}:{port}/v1", timeout) for kind, port in ports.items())
        )
    return [server for server in found if server is not None]


async def _ask(client: Any, kind: str, base_url: str, timeout: float) -> LocalServer | None:
    answer = await fetch_json(client, f"{base_url}/models", timeout, {})
    if not isinstance(answer, dict) or not isinstance(answer.get("data") or [], list) or "data" not in answer:
        return None
    return LocalServer(server_kind(answer) or kind, base_url, model_names(answer))


def model_names(answer: object) -> tuple[str, ...]:
    """The chat models in the answer of ``/models``, as far as they can be told by name."""
    names = [entry.get("id") for entry in model_entries(answer)]
    return tuple(name for name in names if isinstance(name, str) and "embed" not in name.lower())


def server_kind(answer: object) -> str | None:
    """What serves, told by the owner that it writes into the answer of ``/models``."""
    owners = [entry.get("owned_by") for entry in model_entries(answer)]
    return next((_OWNERS[owner] for owner in owners if isinstance(owner, str) and owner in _OWNERS), None)


def model_entries(answer: object) -> list[dict[str, object]]:
    """The entries in the answer of ``/models``, none where it is something else."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


async def get_json(
    url: str, *, timeout: float, headers: Mapping[str, str] | None = None, body: object = None
) -> object | None:
    """What a server answers to GET, parsed, or None whatever goes wrong: an optional question, never an error.

    With a ``body``, to POST of it as JSON.

    Bounded in time (``timeout`` seconds in all) and size; redirects are not followed; loopback ignores proxies.
    """
    import openai

    async with openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(url), follow_redirects=False) as client:
        return await fetch_json(client, url, timeout, headers or {}, body)


async def fetch_json(
    client: Any, url: str, timeout: float, headers: Mapping[str, str], body: object = None
) -> object | None:
    """``get_json`` over an HTTP client that there is already."""
    request = {"method": "GET"} if body is None else {"method": "POST", "json": body}
    try:
        async with (
            asyncio.timeout(timeout),
            client.stream(url=url, headers=dict(headers), follow_redirects=False, **request) as response,
        ):
            if response.status_code != 200:
                return None
            received = bytearray()
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > _MAX_ANSWER:
                    return None
            answer: object = json.loads(received)
            return answer
    except Exception:  # the HTTP library's own exceptions changed between versions of the SDK, and none matters here
        return None


def is_loopback(url: str) -> bool:
    """Whether a URL points at this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
