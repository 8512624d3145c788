"""Sessions of the sandbox that a module's fixture ``sandbox`` makes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from codeact.contracts import Sandbox, Session


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    """A session for one test."""
    session = await sandbox.session()
    yield session
    await session.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(sandbox: Sandbox) -> AsyncIterator[Session]:
    """A session for tests that leave it usable."""
    session = await sandbox.session()
    yield session
    await session.close()
