"""The sandbox in Jupyter's own programs: the console on a terminal, the server over HTTP, JupyterLab in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.sandbox.jupyter import installed_kernelspec, variables
from tests.sandbox.processes import until
from tests.terminal import descendants, environment, terminal, wait_gone

CHROMIUM = Path("/usr/bin/chromium")
LIMIT = 60.0  # seconds
SHOWN = "Python (codeact sandbox)"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: pip install 'codeact[dev]'")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("jupyter")
    with installed_kernelspec(place):
        yield place


def surroundings(place: Path) -> dict[str, str]:
    source = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return environment(place / "home", **variables(place), **source)


# --- jupyter console ----------------------------------------------------------------------------------------------


@needs("jupyter_console")
def test_console(place: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("sesame")
    line = [sys.executable, "-m", "jupyter_console", "--kernel", "codeact", "--ZMQTerminalInteractiveShell.banner="]
    with terminal(line, surroundings(place), tmp_path) as console:
        console.expect(r"In \[1\]:")
        console.type("6 * 7\r")
        console.expect(r"Out\[1\]: 42")
        console.expect(r"In \[2\]:")
        console.type(f"import os; print('there', os.path.exists('{tmp_path}/secret.txt'), os.listdir('/workspace'))\r")
        console.expect(r"there False \[\]")
        console.expect(r"In \[3\]:")
        console.type("import time; print('beg' + 'un'); time.sleep(600)\r")
        console.expect("begun")
        console.type("\x03")
        console.expect("KeyboardInterrupt")
        console.expect(r"In \[4\]:")
        console.type("'hello ' + input('wh' + 'o? ')\r")
        console.expect(r"who\? ")
        console.type("you\r")
        console.expect("'hello you'")
        console.expect(r"In \[5\]:")
        kernels = descendants(console.process.pid)
        assert len(kernels) >= 3, "the zygote, process 1 and the kernel"
        console.type("exit\r")
        assert console.wait() == 0
    assert wait_gone(kernels) == set()


# --- the server ---------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    url: str
    token: str
    process: subprocess.Popen[bytes]
    folder: Path

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the server's HTTP interface: the JSON that it answers."""
        headers = {"Authorization": f"token {self.token}"}
        data = None if method in ("GET", "DELETE") else json.dumps(body or {})
        request = HTTPRequest(f"{self.url}/api/{path}", method, headers, data, request_timeout=LIMIT)
        answer = await AsyncHTTPClient().fetch(request)
        return json.loads(answer.body) if answer.body else None


@pytest.fixture(scope="module")
def server(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    token, folder = uuid.uuid4().hex, tmp_path_factory.mktemp("notebooks")
    (folder / "beside.txt").write_text("beside the notebook")
    line = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    line += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    line += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    line += ["--LabApp.extension_manager=readonly"]
    log = (folder.parent / f"{folder.name}.log").open("w+b")
    with log, subprocess.Popen(line, env=surroundings(place), cwd=folder, stdout=log, stderr=log) as process:
        children: set[tuple[int, str]] = set()
        try:
            deadline = time.monotonic() + LIMIT
            while not answers(port):
                assert process.poll() is None and time.monotonic() < deadline, said(log)
                time.sleep(0.05)
            yield Server(f"http://127.0.0.1:{port}", token, process, folder)
            children = descendants(process.pid)
            process.terminate()
            process.wait(LIMIT)
        finally:
            process.kill()
    assert children and wait_gone(children) == set(), "the zygote ends with its server"


def said(log: Any) -> str:
    log.seek(0)
    return str(log.read().decode(errors="replace"))[-3000:]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


class Notebook:
    """What a notebook in a browser does: one websocket for all channels of a kernel."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection

    async def send(self, code: str) -> str:
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": "s"}
        header |= {"version": "5.3", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self.connection.write_message(json.dumps(message))
        return header["msg_id"]

    async def next(self) -> dict[str, Any]:
        data = await asyncio.wait_for(self.connection.read_message(), LIMIT)
        assert isinstance(data, str), "the connection is there, and its messages are text"
        message: dict[str, Any] = json.loads(data)
        return message

    async def run(self, code: str) -> str:
        """What the code printed, its errors included."""
        identity, told, left = await self.send(code), "", {"execute_reply", "idle"}
        while left:
            message = await self.next()
            if message["parent_header"].get("msg_id") == identity:
                content = message["content"]
                told += str(content.get("text", ""))
                told += str(content.get("evalue", "")) if message["msg_type"] == "error" else ""
                left -= {message["msg_type"], str(content.get("execution_state"))}
        return told


@needs("jupyterlab")
async def test_server(server: Server) -> None:
    listed = (await server.ask("GET", "kernelspecs"))["kernelspecs"]
    assert listed["codeact"]["spec"]["display_name"] == SHOWN
    kernel = (await server.ask("POST", "kernels", {"name": "codeact"}))["id"]
    address = f"{server.url.replace('http', 'ws')}/api/kernels/{kernel}/channels"
    headers = {"Authorization": f"token {server.token}"}
    connection = await websocket_connect(HTTPRequest(address, headers=headers, connect_timeout=LIMIT))
    try:
        await use(server, kernel, Notebook(connection))
    finally:
        connection.close()
    assert await server.ask("GET", "kernels") == []


async def use(server: Server, kernel: str, notebook: Notebook) -> None:
    """Run, interrupt, restart, let die and shut down."""
    seen = f"import os\nprint(os.getcwd(), os.path.exists({str(server.folder / 'beside.txt')!r}))"
    assert await notebook.run(seen) == "/workspace False\n"
    await notebook.run("lost = 1\nopen('kept.txt', 'w').write('kept')")

    await notebook.send("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    while (await notebook.next())["content"].get("text") != "begun\n":
        pass
    await server.ask("POST", f"kernels/{kernel}/interrupt")
    while (await notebook.next())["content"].get("ename") != "KeyboardInterrupt":
        pass
    assert await notebook.run("print(lost)") == "1\n", "an interrupt keeps the state"

    await server.ask("POST", f"kernels/{kernel}/restart")
    assert await notebook.run("print('lost' in globals(), open('kept.txt').read())") == "False kept\n"

    await notebook.send("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")

    async def restarted() -> bool:
        return bool((await notebook.next())["content"].get("execution_state") == "restarting")

    await until(restarted, "the server notices that the kernel died, and starts another")
    assert await notebook.run("print('lost' in globals(), open('kept.txt').read())") == "False kept\n"
    inside = descendants(server.process.pid)
    await server.ask("DELETE", f"kernels/{kernel}")
    assert len(await asyncio.to_thread(gone, inside)) >= 2, "process 1 and the kernel"


def gone(processes: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those that end within a few seconds: the zygote and the server's helpers stay."""
    return processes - wait_gone(processes, 3)


# --- JupyterLab ---------------------------------------------------------------------------------------------------


@needs("jupyterlab", "playwright")
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium: apt-get install chromium")
def test_lab(server: Server) -> None:
    from playwright.sync_api import Page, expect, sync_playwright

    def run(page: Page, number: int, code: str) -> None:
        cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(number)
        cell.fill(code)
        expect(cell).to_contain_text(code)
        cell.press("Shift+Enter")

    expect.set_options(timeout=LIMIT * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(LIMIT * 1000)
            page.goto(f"{server.url}/lab?token={server.token}&reset")
            cards = page.locator(".jp-LauncherCard[data-category='Notebook']").filter(has_text=SHOWN)
            expect(cards).to_have_count(1)
            cards.click()
            expect(page.locator(".jp-Toolbar-kernelName")).to_contain_text(SHOWN)
            expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")).to_have_count(1)
            code = "import os, sys; print('out', os.getcwd(), os.listdir()); sum(range(10))"
            run(page, 0, code)
            outputs = page.locator(".jp-OutputArea-output")
            expect(outputs.first).to_contain_text("out /workspace []")
            expect(outputs.nth(1)).to_contain_text(re.compile(r"^\s*45\s*$"))
            run(page, 1, "import pandas; pandas.DataFrame({'column': [1]})")
            expect(page.locator(".jp-OutputArea-output table")).to_contain_text("column")
        finally:
            browser.close()
