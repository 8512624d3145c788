"""The store in a MongoDB that the environment names: none can be installed from the packages that these tests use."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from codeact.errors import StoreUnavailable, UsageError
from codeact.stores import open_store
from tests.stores.contract import StoreContract

SERVER = os.environ.get("CODEACT_TEST_MONGODB_URL", "")


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    """A database of its own on the server, dropped in the end."""
    name = f"codeact_test_{secrets.token_hex(8)}"
    yield urlunsplit(urlsplit(SERVER)._replace(path=f"/{name}"))
    async with AsyncMongoClient[dict[str, object]](SERVER) as client:
        await client.drop_database(name)


@pytest.mark.skipif(not SERVER, reason="no MongoDB: name a server for tests in CODEACT_TEST_MONGODB_URL")
class TestContract(StoreContract):
    async def set_version(self, url: str, version: int) -> None:
        async with AsyncMongoClient[dict[str, object]](url) as client:
            store = client.get_default_database()["codeact_store"]
            await store.update_one({"_id": "version"}, {"$set": {"version": version}})


@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
async def test_errors_tell_no_password() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await open_store("mongodb://eve:hunter2@127.0.0.1:1/x?serverSelectionTimeoutMS=200")
    assert "hunter2" not in str(caught.value) and "127.0.0.1:1" in str(caught.value)
    for url in ("mongodb://", "mongodb://eve:hunter2@", "mongodb://host/a b"):
        with pytest.raises(UsageError) as wrong:
            await open_store(url)
        assert "hunter2" not in str(wrong.value)
    gc.collect()  # pymongo leaves sockets that were refused to the collector
