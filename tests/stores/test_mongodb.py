"""The store in a MongoDB that the environment names: none can be installed from the packages that these tests use."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

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


def test_errors_tell_no_password() -> None:
    """In a process of its own: pymongo leaves sockets that were refused to the collector, which warns."""
    program = """
import asyncio, sys
from codeact.errors import StoreUnavailable, UsageError
from codeact.stores import open_store
for url in sys.argv[1:]:
    try: asyncio.run(open_store(url))
    except (StoreUnavailable, UsageError) as error: print(type(error).__name__, error)
"""
    urls = ["mongodb://eve:hunter2@127.0.0.1:1/x?serverSelectionTimeoutMS=200"]
    urls += ["mongodb://", "mongodb://eve:hunter2@", "mongodb://host/a b"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program, *urls], capture_output=True, text=True, timeout=60, env=environment
    )
    kinds = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    assert kinds == ["StoreUnavailable", "UsageError", "UsageError", "UsageError"], done
    assert "hunter2" not in done.stdout and "the store mongodb://127.0.0.1:1/x failed" in done.stdout
