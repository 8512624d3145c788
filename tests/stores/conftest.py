"""A PostgreSQL for the tests of stores, where the machine has one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.postgres import MISSING, Postgres, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip(MISSING)
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()
