"""The sandbox without a boundary: the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from codeact.contracts import Sandbox
from codeact.sandbox import Sandbox as make_sandbox
from tests.sandbox.contract import FILE_LIMIT, SandboxContract

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with make_sandbox("unsafe-process", file=FILE_LIMIT) as sandbox:
        yield sandbox


class TestContract(SandboxContract):
    pass
