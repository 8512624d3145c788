"""What goes wrong around an engine: nothing hangs, nothing is lost without a word, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from codeact.contracts import StreamOutput
from codeact.errors import SessionClosed, StateLost
from codeact.sandbox import Sandbox
from codeact.sandbox.remote import RemoteSandbox
from tests.engine.clients import client, executing, following, made, refused, run, text
from tests.engine.serving import engine, start
from tests.sandbox.contract import begun, rest
from tests.sandbox.processes import children, marked, until

LOOP = "print('begun', flush=True)\nwhile True: pass"
UNTIL_GO = """
import os, time
print('begun', flush=True)
while not os.path.exists('go'): time.sleep(0.01)
print('end')"""


def child(marker: str) -> str:
    """Code that starts a process which the host can recognise."""
    return f"import subprocess\nc = subprocess.Popen(['sh', '-c', 'read line', {marker!r}], stdin=subprocess.PIPE)"


def memory(pid: int) -> int:
    """Of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


async def test_a_kernel_killed_in_mid_cell_is_told(tmp_path: Path) -> None:
    marker = f"cdk-{secrets.token_hex(4)}"
    async with engine(tmp_path) as running, client(running.url) as http:
        id = await made(http)
        await run(http, id, f"x = 1\nimport ctypes\nctypes.CDLL(None).prctl(15, {marker!r}.encode(), 0, 0, 0)")
        async with executing(http, id, LOOP) as stream:
            await stream.until("output")
            (pid,) = marked(marker)
            os.kill(pid, signal.SIGKILL)
            _, _, result = await stream.until("result")
        assert result["status"] == "died" and text(result) == "begun\n"
        assert "signal 9" in result["notice"] and "(ctypes" not in result["notice"] and "x" in result["notice"]
        fresh = await run(http, id, "'x' in globals()")
        assert text(fresh) == "False" and fresh["fresh_kernel"]


async def test_a_killed_zygote_is_replaced(tmp_path: Path) -> None:
    async with engine(tmp_path) as running, client(running.url) as http:
        before = await made(http)
        await run(http, before, "x = 1")
        for zygote in children(running.pid):
            os.kill(zygote, signal.SIGKILL)
        after = await made(http)
        assert text(await run(http, after, "2")) == "2"
        # of the old one: it goes on, or it says what was lost
        result = await run(http, before, "'x' in globals()")
        assert text(result) == "True" or "lost" in (result["notice"] or "")


async def test_a_killed_engine_leaves_nothing_and_its_successor_tells(tmp_path: Path) -> None:
    marker = f"orphan-{secrets.token_hex(6)}"
    first = await start(tmp_path)
    async with client(first.url) as http:
        id = await made(http)
        await run(http, id, child(marker) + "\nx = 1")
        await http.post("/execute", json={"convid": "talk", "code": "x = 1"})
        assert marked(marker)
        running = asyncio.create_task(http.post(f"/v1/sessions/{id}/execute", json={"code": LOOP}))
        await first.stop(signal.SIGKILL)
        with pytest.raises(httpx2.HTTPError):
            await running
    await until(lambda: not marked(marker), "the sessions of the dead engine end")
    async with engine(tmp_path) as second, client(second.url) as http:
        for method, path in (("GET", ""), ("POST", "/execute"), ("GET", "/state"), ("GET", "/files")):
            answer = await http.request(
                method, f"/v1/sessions/{id}{path}", json={"code": "x"} if method == "POST" else None
            )
            assert refused(answer) == (410, "state_lost") and "crashed or was killed" in answer.text
        assert refused(await http.post("/v1/sessions", json={"id": id})) == (410, "state_lost")
        told = (await http.post("/execute", json={"convid": "talk", "code": "'x' in globals()"})).json()
        assert told["result"].startswith("[State lost: the engine that held it") and told["result"].endswith("False")
        assert told["new_kernel_created"]
        again = (await http.post("/execute", json={"convid": "talk", "code": "1"})).json()
        assert again == {"result": "1", "new_kernel_created": False}
        assert (await http.delete(f"/v1/sessions/{id}")).status_code == 204
        assert (await http.post("/v1/sessions", json={"id": id})).status_code == 201


async def test_sigterm_drains(tmp_path: Path) -> None:
    """Code that ends in time ends by itself; other code is interrupted; code that waits is told; nothing is left."""
    marker = f"drain-{secrets.token_hex(6)}"
    running = await start(tmp_path, "--drain", "1.5")
    async with client(running.url) as http:
        short, long, plain = [await made(http, files=[]) for _ in range(3)]
        await run(http, short, child(marker))
        wait = UNTIL_GO
        async with (
            executing(http, short, wait) as ends,
            executing(http, long, LOOP) as stays,
            executing(http, long, "x = 1") as waits,
        ):
            await ends.until("output")
            await stays.until("output")
            asked = asyncio.create_task(http.post(f"/v1/sessions/{plain}/execute", json={"code": "while True: pass"}))

            async def runs() -> bool:
                return bool((await http.get(f"/v1/sessions/{plain}")).json()["state"] == "running")

            await until(runs, "the plain execution runs")
            running.process.send_signal(signal.SIGTERM)

            async def draining() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await until(draining, "the engine drains")
            assert refused(await http.post("/v1/sessions", json={})) == (503, "draining")
            assert refused(await http.post(f"/v1/sessions/{plain}/execute", json={"code": "1"})) == (503, "draining")
            assert (await http.get("/healthz")).status_code == 200
            await http.put(f"/v1/sessions/{short}/files/go", content=b"")
            assert (await ends.until("result"))[2]["status"] == "ok"
            assert (await waits.until("result"))[2]["notice"] == "Stopped before it began: the engine is being stopped."
            assert (await stays.until("result"))[2]["status"] == "interrupted"
            assert (await asked).json()["result"]["status"] == "interrupted"
    assert await running.stop() == 0
    assert not marked(marker) and "Traceback" not in running.said
    async with engine(tmp_path) as second, client(second.url) as http:
        answer = await http.get(f"/v1/sessions/{short}")
        assert refused(answer) == (410, "state_lost") and "the engine was shut down" in answer.text


async def test_a_client_gone_in_mid_stream_may_come_back(tmp_path: Path) -> None:
    async with engine(tmp_path) as running, client(running.url) as http:
        id = await made(http)
        code = UNTIL_GO
        async with client(running.url) as other, executing(other, id, code, execution="e") as stream:
            number, _, _ = await stream.until("output")  # and away, without a word
        await http.put(f"/v1/sessions/{id}/files/go", content=b"")
        async with following(http, id, "e", number) as stream:
            rest_of_it = await stream.all()
        assert [kind for _, kind, _ in rest_of_it] == ["output", "result"]
        assert text(rest_of_it[-1][2]) == "begun\nend\n"


class Breaking:
    """A way to an engine that breaks when told to: what a bad network does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *exc: object) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._connections |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._connections:
            writer.transport.abort()
        self._connections.clear()


async def test_the_client_takes_up_a_broken_stream(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        breaking = Breaking(running.port)
        async with breaking as url, Sandbox(url) as sandbox, RemoteSandbox(running.url) as other:
            session = await sandbox.session()
            helper = await other.attach(session.id)
            code = "import os, time\nfor i in range(3):\n  print('begun', i, flush=True)\n"
            items, seen = await begun(session, code + "  while not os.path.exists(f'go-{i}'): time.sleep(0.01)")
            for i in range(3):
                breaking.cut()
                await helper.put(f"go-{i}", b"")
            outputs, result = [], None
            async for item in items:
                if isinstance(item, StreamOutput):
                    outputs.append(item)
                else:
                    result = item
            assert (
                "".join(o.text for o in [*seen, *outputs] if isinstance(o, StreamOutput))
                == "begun 0\nbegun 1\nbegun 2\n"
            )
            assert result is not None and result.status == "ok"


async def test_the_client_of_a_killed_engine_is_told(tmp_path: Path) -> None:
    running = await start(tmp_path)
    async with Sandbox(running.url) as sandbox:
        session = await sandbox.session()
        items, _ = await begun(session, LOOP)
        await running.stop(signal.SIGKILL)
        again = await start(tmp_path, "--port", str(running.port))
        with pytest.raises((StateLost, SessionClosed), match="crashed or was killed"):
            await asyncio.wait_for(rest(items), 30)
        await again.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_is_told(small_disk: Path, tmp_path: Path) -> None:
    temporary = small_disk / "tmp"
    temporary.mkdir()
    async with engine(small_disk / "state", extra={"TMPDIR": str(temporary)}) as running, client(running.url) as http:
        id = await made(http)
        await run(http, id, "open('big', 'wb').write(bytes(4 << 20))")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", 0) as file:
            while file.write(bytes(1024)):
                pass
        answer = await http.put(f"/v1/sessions/{id}/files/up", content=bytes(3 << 20))
        assert refused(answer) == (507, "no_room") and "TMPDIR" in answer.text
        assert refused(await http.get(f"/v1/sessions/{id}/files/big")) == (507, "no_room")
        for number in range(40):  # the state's file may have some room of its own left
            answer = await http.post("/v1/sessions", json={"id": f"s{number}"})
            if answer.status_code != 201:
                break
        assert answer.status_code in (503, 507), answer.text
        assert "room" in answer.json()["error"]["message"]
        assert text(await run(http, id, "1 + 1")) == "2", "what is there goes on"
        filler.unlink()
        again = await http.post("/v1/sessions", json={"id": f"s{number}"})
        assert again.status_code == 201, again.text
        assert (await http.put(f"/v1/sessions/{id}/files/up", content=b"x")).status_code == 204


MALFORMED = (
    b"GARBAGE\r\n\r\n", b"\x00\xff\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /execute HTTP/1.1\r\n\r\n",
    b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /execute HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{]",
    b"GET /v1/sessions/%00%ff/state HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/sessions/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000,
)  # fmt: skip


def malformed(choice: random.Random) -> bytes:
    """A request that no client should send."""
    kind = choice.random()
    if kind < 0.4:
        return choice.choice(MALFORMED)
    bodies = (b"{", b"[]", b"null", b'"x"', b"[" * 5000, b'{"convid": 1}', b'{"convid": "\\ud800", "code": "1"}',
              b'{"convid": "", "code": ""}', b'{"code": 1e999}', b"\xff\xfe", b'{"timeout": NaN}')  # fmt: skip
    body = choice.choice(bodies) if kind < 0.8 else choice.randbytes(choice.randrange(200))
    path = choice.choice((b"/execute", b"/v1/sessions", b"/v1/sessions/x/execute", b"/v1/sessions/x/fork"))
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n" % path
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


async def test_ten_thousand_malformed_requests(tmp_path: Path) -> None:
    async with engine(tmp_path) as running, client(running.url) as http:
        id = await made(http)
        before = memory(running.pid)
        choice = random.Random(1)
        statuses: dict[bytes, int] = {}

        async def one(request: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            try:
                writer.write(request)
                answer = await asyncio.wait_for(reader.readexactly(12), 30)
                statuses[answer[9:12]] = statuses.get(answer[9:12], 0) + 1
            finally:
                writer.transport.abort()

        for _ in range(100):
            await asyncio.gather(*(one(malformed(choice)) for _ in range(100)))
        assert sum(statuses.values()) == 10_000 and len(statuses) >= 4, statuses
        assert all(status.startswith(b"4") for status in statuses), statuses
        assert text(await run(http, id, "1 + 1")) == "2"
        assert "codeact_sessions 1.0" in (await http.get("/metrics")).text
        assert memory(running.pid) - before < 64 << 20


async def test_a_slow_reader_hangs_nobody_and_is_told(tmp_path: Path) -> None:
    """It reads nothing while tens of megabytes are printed: they are bounded here, and it reads what was lost."""
    async with engine(tmp_path) as running, client(running.url) as http:
        id = await made(http)
        code = "for i in range(40): print('x' * (1 << 20))\nprint('the end')"
        body = json.dumps({"code": code, "execution": "e"}).encode()
        with socket.create_connection(("127.0.0.1", running.port)) as slow:
            slow.settimeout(30)
            head = (
                b"POST /v1/sessions/%s/execute HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
                % id.encode()
            )
            slow.sendall(head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

            async def ended() -> bool:
                return bool((await http.get(f"/v1/sessions/{id}")).json()["state"] == "idle")

            async def started() -> bool:
                return bool((await http.get(f"/v1/sessions/{id}")).json()["executions"] == 1)

            await until(started, "the code runs")
            await until(ended, "the code ends while nobody reads")
            assert text(await run(http, id, "1 + 1")) == "2"
            answer = await asyncio.to_thread(_all, slow)
        gaps = [json.loads(line[6:])["lost"] for line in answer.split(b"\n") if line.startswith(b'data: {"lost"')]
        assert sum(gaps) > 0 and b"event: result" in answer and b"the end" in answer
        assert len(answer) < 30 << 20


def _all(connection: socket.socket) -> bytes:
    received = b""
    while b"event: result" not in received[-(1 << 20) :] or not received.endswith(b"0\r\n\r\n"):
        piece = connection.recv(1 << 20)
        if not piece:
            break
        received += piece
    return received
