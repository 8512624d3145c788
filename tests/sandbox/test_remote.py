"""An engine over HTTP as a sandbox: the contract, and what only a network can do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from codeact.contracts import Sandbox
from codeact.sandbox import Sandbox as make_sandbox
from tests.engine.serving import engine
from tests.sandbox.contract import FILE_LIMIT, SandboxContract

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with (
        engine(tmp_path_factory.mktemp("engine"), "--drain", "1") as running,
        make_sandbox(running.url, file=FILE_LIMIT) as sandbox,
    ):
        yield sandbox


class TestContract(SandboxContract):
    pass
