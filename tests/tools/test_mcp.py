"""MCP servers as functions of the sandbox: real servers of both transports, real sessions, every bad habit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from codeact.contracts import HostTool, Sandbox, Session
from codeact.errors import ToolError, UsageError
from codeact.sandbox import Sandbox as open_sandbox
from codeact.tools.mcp import McpServers
from codeact.tools.mcp.config import HttpServer, ServerConfig, StdioServer, parse
from codeact.tools.mcp.connection import MOST_RESTARTS
from tests.servers import ScriptedServer
from tests.terminal import command, environment, started, wait_gone

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = Path(__file__).with_name("mcp_program.py")
RAW = Path(__file__).with_name("mcp_raw.py")


def stdio(**more: Any) -> StdioServer:
    return StdioServer(command=sys.executable, args=(str(PROGRAM), "stdio"), **more)


def raw() -> StdioServer:
    return StdioServer(command=sys.executable, args=("-I", str(RAW)))


class HttpProgram:
    """The test's server over HTTP, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.port = 0
        self.start()

    def start(self) -> None:
        """On a free port, later on the same."""
        line = [sys.executable, str(PROGRAM), "http", "--port", str(self.port), *self.arguments]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def http(*arguments: str) -> Iterator[HttpProgram]:
    program = HttpProgram(*arguments)
    try:
        yield program
    finally:
        program.stop()


def function(servers: McpServers, name: str) -> HostTool:
    return next(tool for tool in servers.tools if tool.name == name)


async def call(servers: McpServers, name: str, **arguments: object) -> Any:
    result: Any = function(servers, name).call(arguments)
    return await result


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["stdio", "http", "http --legacy"])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[McpServers]:
    """The same server over each transport, and over HTTP in both eras of the protocol."""
    kind, *more = request.param.split()
    with contextlib.ExitStack() as stack:
        config: ServerConfig = stdio()
        if kind == "http":
            program = stack.enter_context(http("--token", "s3cret", *more))
            config = HttpServer(url=program.url, headers={"Authorization": "Bearer s3cret"})
        async with McpServers({"habits": config}, call_limit=20) as servers:
            yield servers


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(sandbox: Sandbox, servers: McpServers) -> AsyncIterator[Session]:
    session = await sandbox.session(tools=servers.tools)
    yield session
    await session.close()


async def shown(session: Session, code: str) -> str:
    result = await session.run(code)
    assert result.status == "ok", result
    return result.stdout.strip()


# --- a server as it should be, over each transport ----------------------------------------------------------------


async def test_a_tool_is_a_function_with_its_signature_and_docstring(session: Session) -> None:
    assert await shown(session, "print(add(a=20, b=22), add(a=1))") == "42 3"
    told = await shown(session, "help(visit)")
    assert "visit(*, place: dict, mode: Literal['walk', 'ride'] = 'walk') -> dict" in told
    assert "- 'city' (str): The city's name." in told and "- 'zip' (str | None, optional)" in told
    assert "visit(*, place: dict, mode: Literal['walk', 'ride'] = 'walk') -> dict: Go somewhere." in session.description
    assert "More than one paragraph" not in session.description


async def test_results_have_a_defined_form(session: Session) -> None:
    assert await shown(session, "print(visit(place={'city': 'Rome'}))") == "{'went': 'Rome', 'mode': 'walk'}"
    assert await shown(session, "print(repr(greet(name='Ann')))") == "'hello Ann'"
    code = "p = picture(); print(p['type'], p['mime_type'], p['data'][:4])"
    assert await shown(session, code) == r"image image/png b'\x89PNG'"


async def test_wrong_arguments_are_refused_with_words_that_help(session: Session, servers: McpServers) -> None:
    code = "try: visit(place={'city': 1}, mode='fly')\nexcept Exception as error: print(type(error).__name__, error)"
    told = await shown(session, code)
    assert "visit was called with wrong arguments" in told
    assert "place.city: 1 is not of type 'string'" in told and "mode: 'fly' is not one of ['walk', 'ride']" in told
    assert told.endswith("It takes visit(*, place: dict, mode: Literal['walk', 'ride'] = 'walk') -> dict")
    with pytest.raises(ToolError, match="b: 'two' is not of type 'integer'"):
        await call(servers, "add", a=1, b="two")


async def test_the_error_of_a_tool_is_an_exception_with_its_words(session: Session) -> None:
    told = await shown(session, "try: fail(reason='no luck')\nexcept Exception as error: print(error)")
    assert told.startswith("fail failed: ") and "no luck" in told and "/" not in told


async def test_resources_are_readable(session: Session) -> None:
    listed = await shown(session, "print(sorted(row['uri'] for row in list_resources()))")
    assert listed == "['notes://point', 'notes://today']"
    code = "print(read_resource('notes://today'), read_resource('notes://point', 'habits')[:4])"
    assert await shown(session, code) == r"buy milk b'\x89PNG'"
    told = await shown(session, "try: read_resource('notes://nothing', 'habits')\nexcept Exception as e: print(e)")
    assert "the MCP server 'habits' refused" in told


async def test_a_result_that_is_too_large_is_refused(servers: McpServers) -> None:
    with pytest.raises(ToolError, match="gave back 8 MiB, more than 8: ask for less"):
        await call(servers, "repeat", size=(8 << 20) + 1)


async def test_a_changed_list_is_told_and_its_functions_are_there(session: Session) -> None:
    """Last of this server: it changes. Over HTTP the word of it may come after the answer: then the next call tells."""
    told = await shown(session, "print(grow())\nprint(len(list_mcp_tools()))\nprint(multiply(a=6, b=7))")
    assert "new or changed functions, defined now: multiply(*, a: int, b: int) -> int; no longer there: shrink" in told
    assert told.splitlines()[-1] == "42"
    assert "Multiply two numbers." in await shown(session, "help(multiply)")
    gone = await shown(session, "try: shrink()\nexcept Exception as error: print(error)")
    assert gone == "there is no shrink any more: list_mcp_tools() tells what there is"


# --- servers that die, hang and lie -------------------------------------------------------------------------------


async def test_a_server_that_dies_is_told_and_started_again(sandbox: Sandbox) -> None:
    async with McpServers({"habits": stdio()}) as servers:
        session = await sandbox.session(tools=servers.tools)
        told = await shown(session, "try: die()\nexcept Exception as error: print(error)")
        assert told == (
            "the MCP server 'habits' ended during this call (exit status 3); it is started again with the next call"
        )
        told = await shown(session, "print(add(a=1))")
        assert "[MCP server 'habits': it was started again, so that what it remembered is gone]" in told
        assert told.endswith("3")
        await session.close()


async def killed(servers: McpServers, name: str) -> None:
    """Kill a server's process and wait until it is known to be gone."""
    process = servers._connections[name]._process
    assert process is not None and process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while not process.ended:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_server_that_was_killed_between_two_calls_is_started_again() -> None:
    async with McpServers({"raw": raw()}) as servers:
        for _ in range(MOST_RESTARTS):
            await killed(servers, "raw")
            assert "it was started again" in (await call(servers, "forge"))["$mcp"]["notice"]
        await killed(servers, "raw")
        with pytest.raises(ToolError, match="was started again 5 times and ended each time: do without it"):
            await call(servers, "forge")


async def test_a_server_that_hangs_is_given_up_and_replaced() -> None:
    async with McpServers({"habits": stdio(timeout=1)}) as servers:
        with pytest.raises(ToolError, match="did not answer within 1 seconds; the call was given up"):
            await call(servers, "hang")
        assert await call(servers, "add", a=1) == 3  # the server itself still answers
        stopped = await call(servers, "pid")
        with pytest.raises(ToolError, match="did not answer"):
            await call(servers, "stop_listening")
        answer = await call(servers, "add", a=1)
        assert "it was started again" in answer["$mcp"]["notice"] and answer["$mcp"]["result"] == 3
        assert not wait_gone({(stopped, started(stopped))}), "the one that hung is gone"


async def test_a_server_over_http_that_went_away_is_connected_to_again() -> None:
    with http("--legacy") as program:
        async with McpServers({"habits": HttpServer(url=program.url)}, start_limit=10) as servers:
            program.stop()
            with pytest.raises(ToolError, match=r"the MCP server 'habits' (ended|did not start)"):
                await call(servers, "add", a=1)
            with pytest.raises(
                ToolError, match="the MCP server 'habits' did not start: All connection attempts failed"
            ):
                await call(servers, "add", a=1)
            program.start()
            answer = await call(servers, "add", a=1)
            assert answer["$mcp"]["result"] == 3
            program.stop()  # and once more, without a call while it is away: it has forgotten our session
            program.start()
            with contextlib.suppress(ToolError):
                await call(servers, "add", a=1)
            answer = await call(servers, "add", a=1)
            assert answer["$mcp"]["result"] == 3


async def test_what_a_server_names_and_says_stays_a_name_and_a_text(sandbox: Sandbox) -> None:
    async with McpServers({"raw server": raw()}) as servers:
        names = [tool.name for tool in servers.tools]
        assert names[:4] == ["raw_server_list", "class_", "wild_name", "slow"]
        assert all(len(tool.stub) < 20_000 and len(tool.description) < 2000 for tool in servers.tools)
        session = await sandbox.session(tools=servers.tools)
        assert "\x1b" not in session.description
        assert await shown(session, "print(class_(from_='here'))") == 'class {"from": "here"}'
        assert await shown(session, "print(wild_name(**{'any': 1}))") == 'wild/../name {"any": 1}'
        assert (
            await shown(session, "print(raw_server_list(a_b=1, a_b_2=None), list((1, 2)))") == 'list {"a-b": 1} [1, 2]'
        )
        assert await shown(session, "print(slow(s='a' * 60 + 'b'))") == f'slow {{"s": "{"a" * 60}b"}}'
        assert await shown(session, "print(broken(a=[1]))") == 'broken {"a": [1]}'
        assert "'notice': 'forged'" in await shown(session, "print(forge())")
        told = await shown(session, "print(change())\nprint(later())")
        assert "defined now: later()" in told and told.endswith("later {}")
        await session.close()


async def test_an_answer_without_end_ends_the_connection() -> None:
    async with McpServers({"raw": raw()}) as servers:
        with pytest.raises(ToolError, match="it sent a message of more than 16 MiB"):
            await call(servers, "endless")
        assert "it was started again" in (await call(servers, "forge"))["$mcp"]["notice"]


async def test_names_of_two_servers_do_not_clash() -> None:
    async with McpServers({"one": raw(), "two": raw()}) as servers:
        names = {tool.name for tool in servers.tools}
        assert {"one_forge", "two_forge"} <= names and "forge" not in names
        assert {tool.group for tool in servers.tools if tool.name == "one_forge"} == {"one"}  # type: ignore[attr-defined]


# --- what the servers get, and what is left of them ---------------------------------------------------------------


async def test_a_server_gets_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ours")
    monkeypatch.setenv("FILES_TOKEN", "sk-theirs")
    config = {"command": sys.executable, "args": [str(PROGRAM), "stdio"], "env": {"TOKEN": "${FILES_TOKEN}"}}
    async with McpServers(parse({"mcpServers": {"habits": config}})) as servers:
        names = set(await call(servers, "variables"))
        assert "TOKEN" in names and await call(servers, "variable", of="TOKEN") == "sk-theirs"
        assert names <= {"TOKEN", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR",
                         "TZ", "USER"}  # fmt: skip


async def test_nothing_is_left_of_a_server() -> None:
    async with McpServers({"habits": stdio()}) as servers:
        server, child = await call(servers, "pid"), await call(servers, "leave_child")
        left = {(server, started(server)), (child, started(child))}
        assert all(since for _, since in left)
    assert not wait_gone(left, 1)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (StdioServer(command="no-such-program"), "did not start: there is no program 'no-such-program'"),
        (
            StdioServer(command=sys.executable, args=("-c", "import sys; sys.exit('no key for /x')")),
            "did not start: .*exit status 1.*it said, s: no key for /x",
        ),
        (StdioServer(command="sleep", args=("60",)), "did not answer within 1 seconds"),
        (HttpServer(url="http://127.0.0.1:9/mcp"), "did not start: All connection attempts failed"),
    ],
)
async def test_a_server_that_does_not_start_is_said_at_once(config: ServerConfig, told: str) -> None:
    limit = 1 if "within" in told else 20
    with pytest.raises(UsageError, match=told):
        async with McpServers({"s": config}, start_limit=limit):
            raise AssertionError("it is not there")


async def test_a_wrong_token_is_said_at_once() -> None:
    with http("--token", "right") as program, pytest.raises(UsageError, match="the MCP server 's' did not start"):
        async with McpServers({"s": HttpServer(url=program.url, headers={"Authorization": "Bearer wrong"})}):
            raise AssertionError("it is not there")


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "mcp.json"
    servers = {"habits": {"command": sys.executable, "args": [str(PROGRAM), "stdio"]}}
    file.write_text(json.dumps({"mcpServers": servers}))
    return file


def run_to_its_end(line: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, env=environment(home), stdin=subprocess.DEVNULL
    )


async def test_a_run_from_the_command_line_calls_a_tool(config: Path, tmp_path: Path) -> None:
    act = "<execute>print('sum', add(a=40))\ntry: die()\nexcept Exception as e: print(e)\nprint(add(a=1))</execute>"
    with ScriptedServer([act, "It is 42."]) as model:
        line = command(
            "run", "--mcp", config, "-m", "scripted", "--base-url", model.base_url, "--format", "tags", "sum?"
        )
        done = await asyncio.to_thread(run_to_its_end, line, tmp_path)
        assert (done.returncode, done.stdout) == (0, "It is 42.\n"), done.stderr
        prompt, observation = (model.requests[n]["messages"][-1 if n else 0]["content"] for n in (0, 1))
    assert "- add(*, a: int, b: int = 2) -> int: Add two numbers." in prompt
    assert "sum 42" in observation and "exit status 3" in observation and "\n3" in observation
    assert "my last words" not in done.stderr + observation


async def test_a_signal_ends_the_servers_of_a_run(config: Path, tmp_path: Path) -> None:
    act = "<execute>print(pid(), leave_child(), flush=True)\nhang()</execute>"
    with ScriptedServer([act, "never"]) as model:
        line = command(
            "run", "--mcp", config, "-m", "scripted", "--base-url", model.base_url, "--format", "tags", "--json"
        )
        process = subprocess.Popen(
            [*line, "go"], stdout=subprocess.PIPE, text=True, env=environment(tmp_path), stdin=subprocess.DEVNULL
        )
        assert process.stdout is not None
        for event in map(json.loads, process.stdout):
            if event["type"] == "execution_output" and event["output"]["type"] == "stream":
                pids = [int(word) for word in event["output"]["text"].split()]
                break
        alive = {(pid, started(pid)) for pid in pids}
        assert len(alive) == 2 and all(since for _, since in alive)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not wait_gone(alive, 1)


async def test_a_broken_file_is_a_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"comand": "x"}}}')
    line = command("run", "--mcp", tmp_path / "mcp.json", "-m", "m", "--base-url", "http://127.0.0.1:9/v1", "x")
    done = await asyncio.to_thread(run_to_its_end, line, tmp_path)
    assert done.returncode == 2
    assert 'mcp.json: the MCP server \'a\' needs either "command" (stdio) or "url"' in done.stderr


# --- the document -------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "mcp.md"


async def test_the_examples_of_the_document_print_what_it_says(tmp_path: Path) -> None:
    page = PAGE.read_text()
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL))
    assert list(programs) == ["shop.py", "program.py", "client.py"]
    for name, source in programs.items():
        (tmp_path / name).write_text(source)
    (config,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mcp.json").write_text(config)
    program = tmp_path / "bin" / "codeact"  # of these sources: clients hand few variables on
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path}\nfrom codeact.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = environment(tmp_path, PATH=path)

    def run(name: str) -> str:
        line = [sys.executable, name]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = [await asyncio.to_thread(run, name) for name in ("program.py", "client.py")]
    assert said == re.findall(r"```text\n(.*?)```", page, re.DOTALL)
