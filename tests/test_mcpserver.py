"""``codeact mcp`` as its clients meet it: the SDK's client over both transports, a process of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, StdioServerParameters
from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ImageContent, TextContent

from codeact.settings import Settings
from tests.terminal import command, descendants, environment, wait_gone

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


class HttpServer:
    def __init__(self, home: Path) -> None:
        line = command("mcp", "--http", "127.0.0.1:0", "--timeout", "20")
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(home)
        )
        assert self.process.stderr is not None
        told = self.process.stderr.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/mcp", told)
        assert found is not None, told + self.process.stderr.read().decode()
        self.url = found[0]


@pytest.fixture(scope="module")
def http(home: Path) -> Iterator[HttpServer]:
    server = HttpServer(home)
    yield server
    left = descendants(server.process.pid)
    server.process.send_signal(signal.SIGINT)
    out, _ = server.process.communicate(timeout=20)
    assert (server.process.returncode, out) == (130, b"")
    assert not wait_gone(left)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["stdio", "http"])
async def client(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Client]:
    server: Any
    if request.param == "http":
        server = request.getfixturevalue("http").url
    else:
        first, *rest = command("mcp", "--timeout", "20")
        server = StdioServerParameters(command=first, args=rest, env=environment(home))
    ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:  # the SDK's client must be left by the task that entered it
        async with Client(server) as client:
            ready.set_result(client)
            await leave.wait()

    holding = asyncio.create_task(hold())
    yield await asyncio.wait_for(ready, 30)
    leave.set()
    await holding


async def python(client: Client, code: str, **more: object) -> CallToolResult:
    return await client.call_tool("python", {"code": code, **more})


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def test_variables_last_from_call_to_call(client: Client) -> None:
    assert text(await python(client, "x = 41; print('out')\nx + 1")).startswith("out\n42")
    assert text(await python(client, "x")) == "41"


async def test_the_tools_say_what_they_are(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == ["python", "restart", "list_files", "put_file", "get_file"]
    described = tools["python"].description or ""
    assert "There is no network." in described and "20 seconds" in described and "4096 MiB" in described
    assert tools["python"].input_schema["required"] == ["code"]


async def test_an_error_is_an_answer_that_says_so(client: Client) -> None:
    result = await python(client, "1/0")
    assert result.is_error and "ZeroDivisionError: division by zero" in text(result)
    assert not (await python(client, "1")).is_error
    wrong = await client.call_tool("python", {"cod": "1"})
    assert wrong.is_error and "code: Field required" in text(wrong)
    assert "there is python, restart" in text(await client.call_tool("nothing", {}))


async def test_a_figure_is_an_image(client: Client) -> None:
    result = await python(client, "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    (image,) = (block for block in result.content if isinstance(block, ImageContent))
    assert image.mime_type == "image/png" and base64.b64decode(image.data)[:4] == b"\x89PNG"


async def test_files_go_in_and_out(client: Client) -> None:
    await client.call_tool("put_file", {"path": "a.txt", "text": "grüezi"})
    await client.call_tool("put_file", {"path": "b.bin", "base64": base64.b64encode(b"\xff\x00").decode()})
    assert text(await python(client, "open('a.txt').read(), open('b.bin', 'rb').read()")) == r"('grüezi', b'\xff\x00')"
    listed = text(await client.call_tool("list_files", {}))
    assert re.findall(r"(\d+) +(\S+)", listed) == [("7", "a.txt"), ("2", "b.bin")]
    assert text(await client.call_tool("get_file", {"path": "a.txt"})) == "grüezi"
    (block,) = (await client.call_tool("get_file", {"path": "b.bin"})).content
    assert isinstance(block, EmbeddedResource) and isinstance(block.resource, BlobResourceContents)
    assert base64.b64decode(block.resource.blob) == b"\xff\x00"
    assert (await client.call_tool("get_file", {"path": "../../etc/passwd"})).is_error
    assert (await client.call_tool("put_file", {"path": "c"})).is_error


async def test_cancelling_a_call_interrupts_its_code_and_nothing_else(client: Client) -> None:
    begun = asyncio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    code = "y = 'begun'\nimport time\nfor _ in range(1000): time.sleep(0.02)\ny = 'ended'"
    call = asyncio.create_task(client.call_tool("python", {"code": code}, progress_callback=told))
    await asyncio.wait_for(begun.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert text(await asyncio.wait_for(python(client, "y"), 10)) == "'begun'"


async def test_code_ends_at_the_smaller_of_the_two_limits(client: Client) -> None:
    result = await python(client, "while True: pass", timeout=0.5)
    assert result.is_error and "time limit of 0.5 seconds" in text(result)


async def test_two_calls_at_once_come_one_after_the_other(client: Client) -> None:
    await python(client, "n = 0")
    step = "m = n\nimport time; time.sleep(0.05)\nn = m + 1"
    await asyncio.gather(*(python(client, step) for _ in range(4)))
    assert text(await python(client, "n")) == "4"


async def test_restart_forgets_the_variables_and_keeps_the_files(client: Client) -> None:
    await python(client, "z = 1; open('kept', 'w').close()")
    await client.call_tool("restart", {})
    assert "NameError" in text(await python(client, "z"))
    assert "kept" in text(await client.call_tool("list_files", {}))


async def test_each_session_over_http_has_a_kernel_of_its_own_that_ends_with_it(http: HttpServer) -> None:
    async with Client(http.url) as one, Client(http.url) as two:
        await python(one, "mine = 1")
        assert "NameError" in text(await python(two, "mine"))
        assert text(await python(one, "mine")) == "1"
        before = descendants(http.process.pid)
    gone = before - descendants(http.process.pid)
    assert gone or len(wait_gone(before, 5)) < len(before)


async def test_web_pages_are_refused(http: HttpServer) -> None:
    def post(**headers: str) -> int:
        asked = urllib.request.Request(http.url, b"{}", {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    assert await asyncio.to_thread(post, Origin="http://localhost:3000") == 403
    assert await asyncio.to_thread(post, Host="evil.example") == 421
    assert await asyncio.to_thread(post) in (400, 406)


def speak(process: subprocess.Popen[bytes], **message: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


@pytest.fixture
def process(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server over stdio in the middle of code that prints to the server's own stdout, were it to reach it."""
    process = subprocess.Popen(
        command("mcp"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    )
    assert process.stdout is not None
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    speak(process, id=1, method="initialize", params=hello)
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "codeact"
    speak(process, method="notifications/initialized")
    code = {"name": "python", "arguments": {"code": "import os; os.system('echo loose; echo ends >&2'); 1"}}
    speak(process, id=2, method="tools/call", params=code)
    assert json.loads(process.stdout.readline())["id"] == 2
    code = {"name": "python", "arguments": {"code": "import time; time.sleep(50)"}}
    speak(process, id=3, method="tools/call", params={**code, "_meta": {"progressToken": 7}})
    assert json.loads(process.stdout.readline())["method"] == "notifications/progress"
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize(("end", "status"), [("eof", 0), ("SIGTERM", 143)])
async def test_the_end_of_stdin_or_a_signal_ends_it_and_all_that_it_had(
    process: subprocess.Popen[bytes], end: str, status: int
) -> None:
    left = descendants(process.pid)
    assert left
    assert process.stdin is not None and process.stdout is not None
    if end == "eof":
        process.stdin.close()
    else:
        process.send_signal(signal.Signals[end])
    assert await asyncio.to_thread(process.wait, 20) == status
    assert not wait_gone(left)
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in process.stdout)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--http", "nowhere"], "--http nowhere: write HOST:PORT"),
        (["--sandbox", "none"], "there is no sandbox 'none'"),
    ],
)
async def test_wrong_use_is_told(arguments: list[str], told: str, home: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("mcp", *arguments), capture_output=True, text=True, timeout=30, env=environment(home), input=""
        )

    done = await asyncio.to_thread(run)
    assert (done.returncode, done.stdout) == (2, "") and told in done.stderr


async def test_a_port_in_use_is_told(home: Path) -> None:
    def run(port: int) -> subprocess.CompletedProcess[str]:
        line = command("mcp", "--http", f"127.0.0.1:{port}")
        return subprocess.run(line, capture_output=True, text=True, timeout=30, env=environment(home), input="")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = await asyncio.to_thread(run, taken.getsockname()[1])
    assert done.returncode == 2 and "in use" in done.stderr


async def test_without_the_sdk_the_install_line_is_told(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mcp").mkdir()
    (tmp_path / "mcp" / "__init__.py").write_text("raise ModuleNotFoundError('no mcp', name='mcp')")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "servers.json").write_text('{"mcpServers": {}}')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = environment(home, PYTHONPATH=paths)
        return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=30, env=env, input="")

    wanted = ["run", "--mcp", str(tmp_path / "servers.json"), "-m", "m", "--base-url", "http://[::1]:9", "x"]
    for arguments in (["mcp"], wanted):
        done = await asyncio.to_thread(run, *arguments)
        assert done.returncode == 2 and 'pip install "codeact[mcp]"' in done.stderr, (sys.path, done)


async def test_the_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from codeact import settings

    monkeypatch.setenv("CODEACT_MCP", "servers.json")
    assert settings.load().settings.mcp == "servers.json"
    assert settings.load({"mcp": "other.json"}).settings.mcp == "other.json"
    assert Settings().mcp is None
