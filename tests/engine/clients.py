"""Plain HTTP clients of an engine, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from codeact.sandbox.api import EVENTS

Json = dict[str, Any]


@asynccontextmanager
async def client(url: str, key: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield http


async def made(http: httpx2.AsyncClient, **options: Any) -> str:
    """A new session's id."""
    answer = await http.post("/v1/sessions", json=options)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def run(http: httpx2.AsyncClient, id: str, code: str, **options: Any) -> Json:
    """The result of running code."""
    answer = await http.post(f"/v1/sessions/{id}/execute", json={"code": code, **options})
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()["result"]
    return result


def text(result: Json) -> str:
    """All that a result shows as plain text."""
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in result["outputs"])


def refused(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class Stream:
    """Server-sent events of one answer, read one by one."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._blocks = self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        buffer = b""
        async for piece in self.answer.aiter_raw():
            buffer += piece
            *blocks, buffer = buffer.split(b"\n\n")
            for block in blocks:
                if not block.startswith(b":"):
                    yield block

    async def event(self) -> tuple[int, str, Json]:
        async with asyncio.timeout(30):
            fields = dict(line.split(b": ", 1) for line in (await anext(self._blocks)).split(b"\n"))
        return int(fields[b"id"]), fields[b"event"].decode(), json.loads(fields[b"data"])

    async def until(self, kind: str) -> tuple[int, str, Json]:
        while (event := await self.event())[1] != kind:
            pass
        return event

    async def all(self) -> list[tuple[int, str, Json]]:
        """What is left, to the end of the stream."""
        events = []
        while True:
            try:
                events.append(await self.event())
            except StopAsyncIteration:
                return events


@asynccontextmanager
async def executing(http: httpx2.AsyncClient, id: str, code: str, **options: Any) -> AsyncIterator[Stream]:
    """The events of code that runs."""
    path, body = f"/v1/sessions/{id}/execute", {"code": code, **options}
    async with http.stream("POST", path, json=body, headers={"Accept": EVENTS}) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith(EVENTS)
        yield Stream(answer)


@asynccontextmanager
async def following(http: httpx2.AsyncClient, id: str, execution: str, last: int) -> AsyncIterator[Stream]:
    path = f"/v1/sessions/{id}/executions/{execution}/events"
    async with http.stream("GET", path, headers={"Last-Event-ID": str(last)}) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)
