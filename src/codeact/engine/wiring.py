"""What each route is given: the manager, and who asks."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request

from codeact.engine.errors import Refused
from codeact.engine.keys import NOBODY, Tenant
from codeact.engine.manager import Manager
from codeact.sandbox.api import ID_PATTERN

SessionId = Annotated[str, Path(pattern=ID_PATTERN)]


class EngineApp(FastAPI):
    """With the ways to send a key in its document: read by hand, they cost nothing for each request."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A key of: codeact engine key add OWNER."},
            "basic": {"type": "http", "scheme": "basic", "description": "The key as the password, for old clients."},
        }
        document["security"] = [{"bearer": []}, {"basic": []}, {}]
        return document


class Access:
    """Who asks. Once there was a key, no request goes without one."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._keyed = False

    def open_to_all(self) -> bool:
        self._keyed = self._keyed or self._manager.keys.exist()
        return not self._keyed

    def tenant(self, authorization: str) -> Tenant:
        """Raises Refused."""
        if self.open_to_all():
            return NOBODY
        key = _key(authorization)
        found = self._manager.keys.find(key) if key else None
        if found is None:
            raise Refused(401, "unauthorized", "this engine asks for a key: Authorization: Bearer KEY")
        return found


def _key(authorization: str) -> str | None:
    """The key that a header carries: as a token, or as the password of a URL."""
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
    return None


async def _manager(request: Request) -> Manager:
    found: Manager = request.app.state.manager
    return found


async def _tenant(request: Request) -> Tenant:
    access: Access = request.app.state.access
    return access.tenant(request.headers.get("authorization", ""))


AManager = Annotated[Manager, Depends(_manager)]
ATenant = Annotated[Tenant, Depends(_tenant)]
