"""The store in a real PostgreSQL."""

from __future__ import annotations

import pytest

from codeact.errors import StoreUnavailable, UsageError
from codeact.stores import open_store
from tests.stores.contract import StoreContract, notices, said
from tests.stores.postgres import Postgres


@pytest.fixture
def schema(postgres: Postgres) -> str:
    return postgres.create()


@pytest.fixture
def url(postgres: Postgres, schema: str) -> str:
    return postgres.url(schema)


class TestContract(StoreContract):
    @pytest.fixture(autouse=True)
    def its_place(self, postgres: Postgres, schema: str) -> None:
        self._server, self._schema = postgres, schema

    async def set_version(self, url: str, version: int) -> None:
        self._server.psql(f"UPDATE {self._schema}.codeact_store SET version = {version}")


async def test_errors_tell_no_password(postgres: Postgres) -> None:
    for url in (
        f"postgresql://eve:hunter2@/absent?host={postgres.home}",
        "postgresql://eve:hunter2@127.0.0.1:1/x",
        "postgres://eve:hunter2@127.0.0.1:port/x",
    ):
        with pytest.raises((StoreUnavailable, UsageError)) as caught:
            await open_store(url)
        assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


async def test_options_of_the_address_are_heard(postgres: Postgres, schema: str, url: str) -> None:
    async with await open_store(url) as store:
        made = await store.create("ann")
        await store.append(made.id, 0, [said("in its schema")])
        assert await notices(store, made.id) == ["in its schema"]
    assert "in its schema" in postgres.psql(f"SELECT body FROM {schema}.codeact_event")
