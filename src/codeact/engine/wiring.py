"""What each route is given: the manager, and who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from codeact.engine.errors import Refused
from codeact.engine.keys import NOBODY, Tenant
from codeact.engine.manager import Manager
from codeact.sandbox.api import ID_PATTERN

SessionId = Annotated[str, Path(pattern=ID_PATTERN)]
_bearer = HTTPBearer(auto_error=False, description="A key of: codeact engine key add OWNER.")
_basic = HTTPBasic(auto_error=False, description="The key as the password, for clients that know URLs only.")


class Access:
    """Who asks. Once there was a key, no request goes without one."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._keyed = False

    def open_to_all(self) -> bool:
        self._keyed = self._keyed or self._manager.keys.exist()
        return not self._keyed

    def tenant(self, key: str | None) -> Tenant:
        """Raises Refused."""
        if self.open_to_all():
            return NOBODY
        found = self._manager.keys.find(key) if key else None
        if found is None:
            raise Refused(401, "unauthorized", "this engine asks for a key: Authorization: Bearer KEY")
        return found


async def _manager(request: Request) -> Manager:
    found: Manager = request.app.state.manager
    return found


async def _tenant(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    basic: Annotated[HTTPBasicCredentials | None, Security(_basic)],
) -> Tenant:
    access: Access = request.app.state.access
    return access.tenant(bearer.credentials if bearer else basic.password if basic else None)


AManager = Annotated[Manager, Depends(_manager)]
ATenant = Annotated[Tenant, Depends(_tenant)]
