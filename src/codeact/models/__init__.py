"""Models: whatever continues a conversation. ``open_model`` chooses one from what the user said and has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from codeact.errors import UsageError

if TYPE_CHECKING:
    from codeact.contracts import Model
    from codeact.models.discover import LocalServer
    from codeact.models.openai import OpenAIModel
    from codeact.models.replay import ReplayModel

_WAYS = (
    "start one (`ollama serve`, or llama.cpp's `llama-server -m model.gguf`), set OPENAI_API_KEY, "
    "set OPENAI_BASE_URL, or name a model file (--model path/to/model.gguf)"
)


async def open_model(
    name: str | None = None,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    context_window: int | None = None,
    ports: Mapping[str, int] | None = None,
) -> Model:
    """The model that the user means. Close it after use; ``describe`` says in one line which it is.

    ``name``: a path that ends in ``.gguf`` (loaded here by llama.cpp), ``replay:PATH`` (the recorded replies of a
    trajectory), or a model's name at a server. What is not given comes from ``CODEACT_MODEL``, ``OPENAI_BASE_URL`` and
    ``OPENAI_API_KEY``. Without base URL and key, a model server on this machine is looked for at its usual ports
    (``ports``: kind to port). Without a name, the server's first model is taken.
    Raises UsageError naming the remedy, and TrajectoryError for a broken recording.
    """
    name = name or os.environ.get("CODEACT_MODEL") or None
    if name is not None and name.startswith("replay:"):
        return _replay(name.removeprefix("replay:"))
    if name is not None and name.lower().endswith(".gguf"):
        from codeact.models.llamacpp import LlamaCppModel

        embedded = LlamaCppModel(name, context_window=context_window)
        await embedded.start()
        return embedded
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    api_key = api_key or os.environ.get("OPENAI_API_KEY") or None
    if base_url is None and api_key is None:
        server, name = await _local(name, ports)
        model = _at(name, server.base_url, None, context_window)
        model.served_by = server.kind
    else:
        if name is None and base_url is None:
            raise UsageError("which model? Name one with --model or in CODEACT_MODEL, for example gpt-4.1-mini")
        model = _at(name or await _first(base_url, api_key), base_url, api_key, context_window)
    if base_url is not None or api_key is None:  # OpenAI itself does not tell
        await model.discover()
    return model


def describe(model: Model) -> str:
    """One line that says which model this is and where, for people."""
    description = getattr(model, "description", None)
    return description if isinstance(description, str) else model.name


def _at(name: str, base_url: str | None, api_key: str | None, context_window: int | None) -> OpenAIModel:
    from codeact.models.openai import OpenAIModel

    return OpenAIModel(name, base_url=base_url, api_key=api_key, context_window=context_window)


def _replay(path: str) -> ReplayModel:
    from codeact.models.replay import ReplayModel
    from codeact.trajectory import load

    return ReplayModel.from_events(load(path).events)


async def _first(base_url: str | None, api_key: str | None) -> str:
    models = await _at("", base_url, api_key, None).models()
    if not models:
        raise UsageError(f"{base_url} does not list its models: check that it runs, or name one with --model")
    return models[0]


async def _local(name: str | None, ports: Mapping[str, int] | None) -> tuple[LocalServer, str]:
    """A server of this machine and its model called ``name``, or the first model of the first server that has one."""
    from codeact.models.discover import LOCAL_PORTS, find_local_servers

    ports = LOCAL_PORTS if ports is None else ports
    servers = await find_local_servers(ports=ports)
    for server in servers:
        for model in server.models:
            if name is None or model == name or model == f"{name}:latest":
                return server, model
    if not servers:
        tried = ", ".join(f"{port} ({kind})" for kind, port in ports.items())
        raise UsageError(f"no model server answers on this machine at port {tried}: {_WAYS}")
    held = "; ".join(f"{s.kind} at {s.base_url} has {', '.join(s.models[:10]) or 'no model yet'}" for s in servers)
    if name is None:
        raise UsageError(f"{held}: fetch a model first, for example `ollama pull qwen2.5-coder`")
    raise UsageError(f"no local server has {name!r} ({held}): choose one of these, or set OPENAI_API_KEY for OpenAI's")
