"""Keys and their quotas, what is full, who is next, and when sessions end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from codeact.errors import SandboxError, StateLost, UsageError
from codeact.sandbox import Sandbox
from codeact.sandbox.remote import RemoteSandbox
from tests.engine.clients import client, executing, made, refused, run, text
from tests.engine.serving import codeact, engine, key
from tests.sandbox.processes import until

LOOP = "print('begun', flush=True)\nwhile True: pass"


async def test_a_session_belongs_to_its_key(tmp_path: Path) -> None:
    mine, other, same_owner = [key(tmp_path, owner) for owner in ("ann", "bob", "ann")]
    async with engine(tmp_path) as running, client(running.url, mine) as http, client(running.url) as nobody:
        id = await made(http, id="private")
        for wrong in (None, "wrong", mine + "x", ""):
            async with client(running.url, wrong) as stranger:
                for path in ("/v1/sessions", "/metrics", f"/v1/sessions/{id}"):
                    assert refused(await stranger.get(path)) == (401, "unauthorized"), (wrong, path)
        assert (await nobody.get("/healthz")).status_code == 200
        for neighbour in (other, same_owner):
            async with client(running.url, neighbour) as http2:
                assert (await http2.get("/v1/sessions")).json() == {"sessions": []}
                for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/state"), ("GET", "/files/x")):
                    answer = await http2.request(method, f"/v1/sessions/{id}{path}")
                    assert refused(answer) == (404, "not_found"), path
                assert refused(await http2.post(f"/v1/sessions/{id}/execute", json={"code": "1"})) == (404, "not_found")
                assert (await http2.post("/v1/sessions", json={"id": "private"})).status_code == 201  # its own
        assert text(await run(http, id, "1")) == "1"
        with_url = running.url.replace("http://", f"http://user:{mine}@")
        told = await asyncio.to_thread(_post, f"{with_url}/execute", {"convid": "private", "code": "2"})
        assert told == {"result": "2", "new_kernel_created": False}


def _post(url: str, body: object) -> Any:
    return httpx2.post(url, json=body, trust_env=False).json()


async def test_keys_are_hashed_listed_and_removed(tmp_path: Path) -> None:
    status, text, told = await codeact(tmp_path, "key", "add", "ann", "--max-sessions", "3")
    assert status == 0 and "shown this once" in told and text.startswith("codeact-") and len(text) > 40
    for path in tmp_path.iterdir():
        assert text.encode() not in path.read_bytes() and text[8:].encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0 or tmp_path.stat().st_mode & 0o077 == 0
    listed = (await codeact(tmp_path, "key", "list"))[1].split()
    assert listed[1:3] == ["sessions", "3"] and listed[-1] == "ann"
    async with engine(tmp_path, "--idle", "1") as running, client(running.url, text) as http:
        await made(http)
        assert await codeact(tmp_path, "key", "remove", listed[0]) == (0, "", "")
        assert refused(await http.get("/v1/sessions")) == (401, "unauthorized")
        other = key(tmp_path, "bob")
        async with client(running.url, other) as http2:

            async def ended() -> bool:
                return "codeact_sessions 0.0" in (await http2.get("/metrics")).text

            await until(ended, "the session of the key ends")
    status, _, told = await codeact(tmp_path, "key", "remove", listed[0])
    assert status == 2 and "there is no key" in told


async def test_an_engine_without_keys_listens_on_loopback_only(tmp_path: Path) -> None:
    status, _, told = await codeact(tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert status == 2 and "codeact engine key add" in told
    status, _, told = await codeact(tmp_path, "--sandbox", "unsafe-process", "--port", "0")
    assert status == 2 and "every user of this machine could run code as you" in told
    async with engine(tmp_path):
        status, _, told = await codeact(tmp_path, "--port", "0")
        assert status == 2 and "another engine uses" in told


async def test_full_is_429_with_retry_after(tmp_path: Path) -> None:
    few, many = key(tmp_path, "ann", max_sessions=1), key(tmp_path, "bob")
    async with engine(tmp_path, "--max-sessions", "2") as running, client(running.url, few) as http:
        await made(http)
        answer = await http.post("/v1/sessions", json={})
        assert refused(answer) == (429, "quota") and int(answer.headers["retry-after"]) > 0
        async with client(running.url, many) as http2:
            first = await made(http2)
            for path, body in (("/v1/sessions", {}), ("/execute", {"convid": "x", "code": "1"}), (f"/v1/sessions/{first}/fork", {})):  # noqa: E501 # fmt: skip
                answer = await http2.post(path, json=body)
                assert refused(answer) == (429, "sessions") and int(answer.headers["retry-after"]) > 0
            async with Sandbox(running.url, key=many) as sandbox:
                waiting = asyncio.create_task(sandbox.session())  # tries again until there is room
                assert (await http2.delete(f"/v1/sessions/{first}")).status_code == 204
                assert (await (await asyncio.wait_for(waiting, 30)).run("1")).result == "1"
        assert 'codeact_refusals_total{cause="sessions"}' in (await http.get("/metrics")).text


async def test_owners_take_turns(tmp_path: Path) -> None:
    ann, bob = key(tmp_path, "ann"), key(tmp_path, "bob")
    async with (
        engine(tmp_path, "--max-executions", "1") as running,
        client(running.url, ann) as http,
        client(running.url, bob) as other,
    ):
        greedy = [await made(http) for _ in range(6)]
        modest = await made(other)
        done: list[str] = []

        async def work(by: httpx2.AsyncClient, id: str, name: str) -> None:
            await run(by, id, "import time\ntime.sleep(0.1)")
            done.append(name)

        async with executing(http, greedy[0], LOOP) as stream:
            await stream.until("output")
            tasks = [asyncio.create_task(work(http, id, "ann")) for id in greedy[1:]]

            async def all_wait() -> bool:
                return "codeact_executions_waiting 5.0" in (await http.get("/metrics")).text

            await until(all_wait, "the executions of ann wait")
            tasks.append(asyncio.create_task(work(other, modest, "bob")))

            async def bob_waits() -> bool:
                return "codeact_executions_waiting 6.0" in (await http.get("/metrics")).text

            await until(bob_waits, "the execution of bob waits")
            await http.post(f"/v1/sessions/{greedy[0]}/interrupt")
            await asyncio.gather(*tasks)
        assert done.index("bob") <= 1, done


async def test_idle_and_old_sessions_end_and_say_so(tmp_path: Path) -> None:
    async with engine(tmp_path, "--idle", "0.6", "--age", "4") as running, client(running.url) as http:
        id = await made(http)
        await run(http, id, "x = 1")
        result = await run(http, id, "import time\ntime.sleep(1.5)\nx")  # running is not idle
        assert text(result) == "1"
        await http.post("/execute", json={"convid": "old", "code": "x = 1"})

        async def none_lives() -> bool:
            return "codeact_sessions 0.0" in (await http.get("/metrics")).text

        await until(none_lives, "the sessions end")
        answer = await http.post(f"/v1/sessions/{id}/execute", json={"code": "x"})
        assert refused(answer) == (410, "state_lost") and "nobody used it for 0.6 seconds" in answer.text
        assert refused(await http.post("/v1/sessions", json={"id": id})) == (410, "state_lost")
        old = (await http.post("/execute", json={"convid": "old", "code": "'x' in globals()"})).json()
        assert old["new_kernel_created"] and old["result"].startswith("[State lost: nobody used it")
        assert old["result"].endswith("\nFalse")
        assert (await http.delete(f"/v1/sessions/{id}")).status_code == 204
        await made(http, id=id)
        async with executing(http, id, LOOP) as stream:
            _, _, failure = await stream.until("error")
        assert failure["code"] == "state_lost" and "older than 4 seconds" in failure["message"]


async def test_the_client_tells_what_an_engine_says(tmp_path: Path) -> None:
    secret = key(tmp_path, "ann")
    async with engine(tmp_path, "--idle", "0.5") as running:
        async with Sandbox(running.url, key="wrong") as sandbox:
            with pytest.raises(UsageError, match="key"):
                await sandbox.session()
        async with RemoteSandbox(running.url, secret) as remote:
            session = await remote.attach("mine")
            await session.run("x = 1")
            assert (await (await remote.attach("mine")).run("x")).result == "1"
            with pytest.raises(UsageError, match="already"):
                await remote.session("mine")

            async def lost() -> bool:
                try:
                    await session.variables()
                except StateLost:
                    return True
                await asyncio.sleep(0.6)
                return False

            await until(lost, "the session ends")
            with pytest.raises(StateLost, match="nobody used it"):
                await session.run("x")
            with pytest.raises(StateLost):
                await remote.attach("mine")
            await remote.forget("mine")
            assert (await (await remote.attach("mine")).run("'x' in globals()")).result == "False"
        with pytest.raises(UsageError, match="at most"):
            async with Sandbox(running.url, key=secret, memory=1 << 50) as sandbox:
                await sandbox.session()
    async with Sandbox(running.url, key=secret) as sandbox:
        with pytest.raises(SandboxError, match="no engine answers at"):
            await sandbox.session()
    for url in ("http://", "https://:80"):
        with pytest.raises(UsageError):
            Sandbox(url)
    with pytest.raises(UsageError, match="engine"):
        Sandbox("local", key="x")
