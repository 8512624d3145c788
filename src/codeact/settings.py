"""What the user has set, and where: a flag goes before the environment, then come the file and the default."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from codeact.errors import UsageError

ENVIRONMENT: Mapping[str, str] = {
    "model": "CODEACT_MODEL",
    "base_url": "OPENAI_BASE_URL",
    "api_key": "OPENAI_API_KEY",
    "sandbox": "CODEACT_SANDBOX",
    "format": "CODEACT_FORMAT",
    "context": "CODEACT_CONTEXT",
    "context_window": "CODEACT_CONTEXT_WINDOW",
    "max_turns": "CODEACT_MAX_TURNS",
    "max_tokens_total": "CODEACT_MAX_TOKENS_TOTAL",
    "max_seconds": "CODEACT_MAX_SECONDS",
    "max_cost": "CODEACT_MAX_COST",
    "timeout": "CODEACT_TIMEOUT",
    "memory": "CODEACT_MEMORY",
    "network": "CODEACT_NETWORK",
    "allow_net": "CODEACT_ALLOW_NET",
    "mcp": "CODEACT_MCP",
}
"""The variable that holds each setting."""


class Settings(BaseModel):
    """``timeout`` and ``max_seconds`` in seconds, ``memory`` in MiB, ``max_cost`` in US dollars,
    ``context_window`` in tokens. None: not set.

    ``allow_net`` is checked with the sandbox that it is for: ``codeact.sandbox.network.Network.of``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str | None = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    sandbox: str = "local"
    format: str | None = None
    context: Literal["none", "truncate", "elide", "summarize"] = "summarize"
    context_window: int | None = Field(None, ge=256)
    max_turns: int = Field(20, ge=1)
    max_tokens_total: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0)
    max_cost: float | None = Field(None, gt=0)
    timeout: float = Field(60.0, gt=0)
    memory: int = Field(4096, ge=128)
    network: Literal["none", "host"] = "none"
    allow_net: tuple[str, ...] = ()
    mcp: str | None = None

    @field_validator("allow_net", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Names joined by commas, as variables have them, or a list of such."""
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
            return value
        return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


class Effective(BaseModel):
    """The settings that hold, and for each where it comes from."""

    settings: Settings
    origins: dict[str, str]

    def shown(self) -> dict[str, tuple[object, str]]:
        """Every setting with its origin, secrets masked: for people to see."""
        values: dict[str, object] = self.settings.model_dump()
        if self.settings.api_key is not None:
            values["api_key"] = "********"
        if self.settings.base_url is not None:
            values["base_url"] = re.sub(r"(?<=://)[^/@]*@", "********@", self.settings.base_url)
        return {name: (value, self.origins.get(name, "default")) for name, value in values.items()}


def config_file() -> Path:
    """Where the file is looked for: ``CODEACT_CONFIG``, else ``codeact/config.toml`` in the user's configuration."""
    if named := os.environ.get("CODEACT_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "codeact" / "config.toml"


def load(flags: Mapping[str, object] | None = None) -> Effective:
    """The effective settings. Raises UsageError naming the setting and where it was set."""
    chosen: dict[str, object] = {}
    origins: dict[str, str] = {}
    path = config_file()
    variables = {name: os.environ.get(variable) or None for name, variable in ENVIRONMENT.items()}
    for source, given in ((str(path), _read(path)), ("", variables), ("flag", flags or {})):
        for name, value in given.items():
            if value is not None:
                chosen[name] = value
                origins[name] = source or ENVIRONMENT[name]
    try:
        return Effective(settings=Settings.model_validate(chosen), origins=origins)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        place = f"--{name.replace('_', '-')}" if origins[name] == "flag" else f"{name} (from {origins[name]})"
        raise UsageError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        if os.environ.get("CODEACT_CONFIG"):
            raise UsageError(f"the configuration file {path} that CODEACT_CONFIG names does not exist") from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"the configuration file {path} cannot be read: {reason}") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from error
    if "api_key" in found:
        raise UsageError(f"api_key does not belong into {path}: keys come from the variable OPENAI_API_KEY only")
    for name in found:
        if name not in ENVIRONMENT:
            known = ", ".join(sorted(set(ENVIRONMENT) - {"api_key"}))
            raise UsageError(f"unknown setting {name!r} in {path}: there is {known}")
    return found
