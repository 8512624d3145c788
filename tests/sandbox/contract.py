"""What every sandbox promises. A backend's tests subclass ``SandboxContract`` and provide a fixture ``sandbox``.

Nothing here waits for a time to pass: the code in the sandbox says how far it is by its output, and the host lets it
go on by putting a file.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from codeact.contracts import (
    Answer,
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    HostCall,
    HostTool,
    Output,
    Question,
    Sandbox,
    Session,
    StreamOutput,
    ToolRules,
)
from codeact.errors import FileTransferError, SessionClosed, ToolError, UsageError
from tests.sandbox.processes import marked, until

FILE_LIMIT = 80 << 20
FLOOD = 200 << 20

WAIT_FOR = """
def wait_for(path):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)
"""
STOPPABLE = {
    "sleep": "import time\nprint('begun')\ntime.sleep(600)",
    "loop": "print('begun')\nwhile True: pass",
    "await": "import asyncio\nprint('begun')\nawait asyncio.sleep(600)",
    "shell": "!echo begun; sleep 600",
    "child": "import subprocess\nprint('begun')\nsubprocess.run(['sleep', '600'])",
}


class Tool:
    """A host tool that runs a given function on the arguments."""

    def __init__(self, name: str, function: Any, rules: ToolRules | None = None) -> None:
        self.name = self.description = name
        self.rules = rules or ToolRules()
        self.stub = (
            f"def {name}(**arguments):\n"
            "    from codeact.sandbox.kernelapp import call_host\n"
            f"    return call_host({name!r}, arguments)\n"
        )
        self.call = function


async def begun(session: Session, code: str, timeout: float | None = None) -> tuple[AsyncIterator[Any], list[Output]]:
    """Start code and return when its first output is there."""
    items = session.execute(code, timeout=timeout)
    seen: list[Output] = []
    async for item in items:
        assert isinstance(item, StreamOutput | DisplayOutput | ErrorOutput), item
        seen.append(item)
        if "begun" in "".join(o.text for o in seen if isinstance(o, StreamOutput)):
            break
    return items, seen


async def rest(items: AsyncIterator[Any]) -> ExecutionResult:
    last = None
    async for item in items:
        last = item
    assert isinstance(last, ExecutionResult)
    return last


async def has_file(session: Session, path: str) -> bool:
    return path in [file.path for file in await session.files()]


async def has_no_variables(session: Session) -> bool:
    return not await session.variables()


def peak_memory() -> int:
    """The most memory that this process has used since ``forget_peak_memory``, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def forget_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class SandboxContract:
    """The suite. The fixture ``sandbox`` has the scope of a module and sets ``file=FILE_LIMIT``; ``session`` and
    ``shared`` stand in conftest.py."""

    # --- what an execution gives back ---

    async def test_state_persists(self, shared: Session) -> None:
        assert (await shared.run("a = 40\ndef f(n): return a + n")).status == "ok"
        assert (await shared.run("f(2)")).result == "42"

    async def test_output_arrives_while_the_code_runs(self, shared: Session) -> None:
        await shared.run(WAIT_FOR)
        items, _ = await begun(shared, "print('begun')\nwait_for('go-on')\nprint('ended')")
        await shared.put("go-on", b"")
        result = await rest(items)
        assert (result.status, result.stdout) == ("ok", "begun\nended\n")

    async def test_each_kind_of_output_has_its_place(self, shared: Session) -> None:
        code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7"
        result = await shared.run(code)
        assert (result.stdout, result.stderr, result.result) == ("out\n", "err\n", "42")
        assert result.error is None and result.execution_count is not None and result.duration > 0

    async def test_error_has_name_message_and_line(self, shared: Session) -> None:
        result = await shared.run("x = 1\n\nx / 0\n")
        assert result.status == "error" and result.error is not None
        assert (result.error.name, result.error.message, result.error.line) == ("ZeroDivisionError", "division by zero", 3)  # fmt: skip # noqa: E501
        assert any("ZeroDivisionError" in line for line in result.error.traceback)

    async def test_syntax_error_has_its_line(self, shared: Session) -> None:
        result = await shared.run("x = 1\nx = = 2\n")
        assert result.error is not None and (result.error.name, result.error.line) == ("SyntaxError", 2)

    async def test_pictures_are_inline(self, shared: Session) -> None:
        result = await shared.run("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()")
        assert [image.mime for image in result.images] == ["image/png"], result

    async def test_html_is_apart_from_text(self, shared: Session) -> None:
        result = await shared.run("import pandas as pd\npd.DataFrame({'n': [1, 2]})")
        assert len(result.html) == 1 and "<table" in result.html[0] and result.result == "   n\n0  1\n1  2"

    async def test_display_comes_before_the_result(self, shared: Session) -> None:
        result = await shared.run("display('shown')\n'last'")
        shown = [(o.text, o.is_result) for o in result.outputs if isinstance(o, DisplayOutput)]
        assert shown == [("'shown'", False), ("'last'", True)]

    async def test_magics_shell_and_await(self, shared: Session) -> None:
        assert "Wall time" in (await shared.run("%time sum(range(10))")).stdout
        assert (await shared.run("!echo from the shell")).stdout.strip() == "from the shell"
        assert (await shared.run("import asyncio\nawait asyncio.sleep(0, 'awaited')")).result == "'awaited'"
        assert (await shared.run("%%bash\necho a cell")).stdout == "a cell\n"

    async def test_state_changes(self, session: Session) -> None:
        first = (await session.run("import numpy as np\na = np.zeros((3, 4))\nb = [1]\nc = 'x'")).changes
        assert first is not None
        assert {v.name: (v.type, v.shape, v.length) for v in first.added} == {
            "a": ("ndarray", (3, 4), None),
            "b": ("list", None, 1),
            "c": ("str", None, 1),
        }
        second = (await session.run("a = np.ones((2, 2))\nb.append(2)\ndel c\n_hidden = 1")).changes
        assert second is not None and not second.added
        assert {v.name: (v.shape, v.length) for v in second.changed} == {"a": ((2, 2), None), "b": (None, 2)}
        assert second.removed == ("c",)
        third = (await session.run("pass")).changes
        assert third is not None and not (third.added or third.changed or third.removed)
        assert sorted(v.name for v in await session.variables()) == ["a", "b"]

    async def test_changes_are_told_after_an_error(self, session: Session) -> None:
        changes = (await session.run("kept = 1\n1 / 0")).changes
        assert changes is not None and [v.name for v in changes.added] == ["kept"]

    @pytest.mark.parametrize("text", ["10%\r20%\r", "héllo 漢字 😀 \u202e", "\x1b[31mred\x1b[0m", "\x00\x07", "\ufffd"])
    async def test_text_arrives_as_written(self, shared: Session, text: str) -> None:
        assert (await shared.run(f"print({text!r}, end='')")).stdout == text

    async def test_what_cannot_be_encoded_is_no_failure_of_the_sandbox(self, shared: Session) -> None:
        for code in ("print('a\\ud800b')", "'\\udc80'", "raise ValueError('\\ud800')", "print('\ud800')"):
            assert (await shared.run(code)).status in ("ok", "error"), code
        assert (await shared.run("'still here'")).result == "'still here'"

    async def test_nobody_answers_input(self, shared: Session) -> None:
        for code in ("input('name? ')", "import getpass\ngetpass.getpass()"):
            error = (await shared.run(code)).error
            assert error is not None and error.name == "EOFError" and "nobody to ask" in error.message

    async def test_late_output_is_shown_with_the_next_execution(self, shared: Session) -> None:
        code = """
import threading
def late():
    wait_for('finish')
    print('from the thread', flush=True)
    open('finished', 'w').close()
threading.Thread(target=late).start()"""
        assert (await shared.run(WAIT_FOR + code)).stdout == ""
        await shared.put("finish", b"")
        await until(partial(has_file, shared, "finished"), "the thread writes")
        assert (await shared.run("pass")).stdout == "from the thread\n"

    # --- stopping code ---

    @pytest.mark.parametrize("kind", STOPPABLE)
    async def test_interrupt_stops_and_keeps_the_state(self, shared: Session, kind: str) -> None:
        await shared.run("kept = 1")
        items, _ = await begun(shared, f"half = 2\n{STOPPABLE[kind]}")
        await shared.interrupt()
        result = await rest(items)
        assert result.status in ("interrupted", "ok") and "begun" in result.stdout
        assert result.notice is None or "kept" in result.notice
        assert (await shared.run("kept + half")).result == "3"

    @pytest.mark.parametrize("kind", STOPPABLE)
    async def test_time_limit_stops_and_keeps_output_and_state(self, shared: Session, kind: str) -> None:
        await shared.run("kept = 1")
        result = await shared.run(STOPPABLE[kind], timeout=1.0)
        assert result.status == "timeout" and "begun" in result.stdout
        assert "1 second" in (result.notice or "") and "Variables are kept" in (result.notice or "")
        assert (await shared.run("kept")).result == "1"

    async def test_interrupt_right_after_the_start_is_not_lost(self, shared: Session) -> None:
        await shared.run("kept = 1")
        for _ in range(5):
            running = asyncio.create_task(shared.run("import time\ntime.sleep(600)"))
            while shared._execution is None:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0)  # sooner than any output could tell
            await shared.interrupt()
            assert (await running).status == "interrupted"
        assert (await shared.run("kept")).result == "1"

    async def test_interrupt_of_nothing_does_nothing(self, shared: Session) -> None:
        await shared.run("kept = 1")
        await shared.interrupt()
        assert (await shared.run("kept")).result == "1"

    async def test_code_that_ignores_interrupts_is_killed(self, session: Session) -> None:
        await session.run("lost = [1]")
        await session.put("survives.txt", b"1")
        code = "import time\nprint('so far')\nwhile True:\n  try: time.sleep(600)\n  except KeyboardInterrupt: pass"
        result = await session.run(code, timeout=0.5)
        assert result.status == "died" and result.stdout == "so far\n" and result.changes is None
        assert result.notice is not None and "0.5 seconds" in result.notice and "(lost)" in result.notice
        fresh = await session.run("'lost' in globals(), open('survives.txt').read()")
        assert fresh.result == "(False, '1')" and fresh.fresh_kernel
        assert not (await session.run("1")).fresh_kernel

    async def test_closing_the_iterator_stops_the_code(self, shared: Session) -> None:
        await shared.run("kept = 1")
        async with aclosing(shared.execute(STOPPABLE["loop"])) as items:  # type: ignore[type-var]
            async for _ in items:
                break
        assert (await shared.run("kept")).result == "1"

    # --- dying ---

    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
            ("import ctypes\nctypes.string_at(0)", "signal 11"),
            ("import os\nos._exit(3)", "exited with"),
        ],
    )
    async def test_death_is_told_and_survived(self, session: Session, code: str, cause: str) -> None:
        await session.run("first = 1\nsecond = 2\nopen('file.txt', 'w').write('kept')")
        items, _ = await begun(session, f"{WAIT_FOR}print('begun')\nwait_for('die')\n{code}")
        await session.put("die", b"")
        result = await rest(items)
        assert result.status == "died" and result.stdout == "begun\n"
        assert result.notice is not None and cause in result.notice and "first, second" in result.notice
        fresh = await session.run("'first' in globals(), open('file.txt').read()")
        assert (fresh.result, fresh.fresh_kernel) == ("(False, 'kept')", True)

    async def test_an_interrupt_reaches_code_whose_new_kernel_is_still_on_its_way(self, session: Session) -> None:
        assert (await session.run("import os\nos._exit(0)")).status == "died"
        running = asyncio.create_task(session.run("import time\ntime.sleep(60)"))
        for _ in range(3):
            await asyncio.sleep(0)  # let it begin; the kernel takes far longer
        await session.interrupt()
        result = await running
        assert (result.status, result.fresh_kernel) == ("interrupted", True)

    async def test_death_between_executions_is_told_with_the_next(self, session: Session) -> None:
        code = "import os, threading\nlost = 1\nthreading.Thread(target=lambda: (wait_for('die'), os._exit(7))).start()"
        assert (await session.run(WAIT_FOR + code)).status == "ok"
        await session.put("die", b"")
        await until(partial(has_no_variables, session), "the kernel dies")
        result = await session.run("6 * 7")
        assert (result.status, result.result, result.fresh_kernel) == ("ok", "42", True)
        assert result.notice is not None and "lost" in result.notice and "7" in result.notice

    async def test_restart_gives_up_the_variables_and_keeps_the_files(self, session: Session) -> None:
        await session.run("x = 1\nopen('kept', 'w').write('k')")
        await session.restart()
        result = await session.run("'x' in globals(), open('kept').read()")
        assert (result.result, result.fresh_kernel) == ("(False, 'k')", True)

    # --- much output ---

    async def test_flood_is_bounded_here_and_kept_there(self, session: Session) -> None:
        await session.run("1")
        forget_peak_memory()
        before = peak_memory()
        code = f"print('the head')\nfor i in range({FLOOD >> 20}): print('x' * ((1 << 20) - 1))\nprint('the tail')"
        result = await session.run(code, timeout=100)
        growth = peak_memory() - before
        assert result.status == "ok", result.error
        assert result.stdout.startswith("the head\nxxx") and result.stdout.endswith("xxx\nthe tail\n")
        written = FLOOD + len("the head\nthe tail\n")
        kept = result.stdout.count("x") + result.stdout.count("the head\n") * 9 + 9
        assert abs(written - result.dropped - kept) < 1000, (result.dropped, kept)
        assert growth < 100 << 20, growth
        assert result.full_output is not None
        whole = await session.get(result.full_output.rpartition("workspace/")[2])
        assert len(whole) == 64 << 20 and whole.startswith(b"the head\nxxx")

    async def test_many_small_writes_lose_nothing(self, shared: Session) -> None:
        result = await shared.run("for i in range(20000): print(i)", timeout=60)
        assert result.stdout.split() == [str(i) for i in range(20000)] and result.dropped == 0

    # --- files ---

    async def test_files_go_in_and_out(self, shared: Session) -> None:
        data = bytes(range(256)) * 1000
        await shared.put("deep/in/é.bin", data)
        await shared.put("deep/stream.bin", io.BytesIO(data))
        await shared.put("deep/stream.bin", b"shorter")
        assert (await shared.run("len(open('deep/in/é.bin', 'rb').read())")).result == str(len(data))
        assert await shared.get("deep/in/é.bin") == data
        assert await shared.get("deep/stream.bin") == b"shorter"
        await shared.run("open('.hidden', 'w').write('x')\nopen('empty', 'w').close()")
        listed = {file.path: file.size for file in await shared.files()}
        assert listed["deep/in/é.bin"] == len(data) and listed["deep/stream.bin"] == 7 and listed["empty"] == 0
        assert not any(".hidden" in path or ".codeact" in path for path in listed)

    async def test_files_can_be_carried_while_code_runs(self, shared: Session) -> None:
        items, _ = await begun(shared, WAIT_FOR + "print('begun')\nwait_for('release')\nprint(open('given').read())")
        await shared.put("given", b"given meanwhile")
        assert await shared.get("given") == b"given meanwhile"
        await shared.put("release", b"")
        assert (await rest(items)).stdout.endswith("given meanwhile\n")

    @pytest.mark.parametrize(
        "path", ["../x", "a/../../x", "/etc/passwd", "", "..", "link", "linked/x", "pipe", "folder", "loop", "a\0b"]
    )
    async def test_bad_paths_are_refused(self, shared: Session, path: str) -> None:
        await shared.run(
            "import os\nif not os.path.lexists('link'):\n  os.symlink('/etc/passwd', 'link')\n"
            "  os.symlink('/tmp', 'linked'); os.mkfifo('pipe'); os.mkdir('folder'); os.symlink('loop', 'loop')"
        )
        with pytest.raises(FileTransferError):
            await asyncio.wait_for(shared.get(path), 10)
        with pytest.raises(FileTransferError):
            await asyncio.wait_for(shared.put(path, b"x"), 10)
        assert (await shared.run("os.path.exists('/tmp/x'), os.path.exists('../x')")).result == "(False, False)"

    async def test_a_file_goes_into_an_open_file(self, shared: Session) -> None:
        await shared.put("given", b"abc" * 100_000)
        target = io.BytesIO()
        await shared.get_into("given", target)
        assert target.getvalue() == b"abc" * 100_000
        with pytest.raises(FileTransferError):
            await shared.get_into("none", target)

    async def test_missing_file_is_told(self, shared: Session) -> None:
        with pytest.raises(FileTransferError, match=r"nothing\.txt"):
            await shared.get("nothing.txt")

    async def test_files_have_a_bound(self, shared: Session) -> None:
        await shared.run(f"open('large', 'wb').truncate({FILE_LIMIT + 1})")
        with pytest.raises(FileTransferError, match="limit"):
            await shared.get("large")
        with pytest.raises(FileTransferError, match="limit"):
            await shared.put("large", bytes(FILE_LIMIT + 1))
        await shared.run("import os\nos.unlink('large')")

    # --- sessions ---

    async def test_sessions_share_nothing(self, sandbox: Sandbox, shared: Session) -> None:
        await shared.run("mine = 1\nopen('mine.txt', 'w').close()")
        other = await sandbox.session()
        try:
            result = await other.run("import os\n'mine' in globals(), os.path.exists('mine.txt')")
            assert result.result == "(False, False)" and other.id != shared.id
        finally:
            await other.close()

    async def test_executions_queue(self, shared: Session) -> None:
        codes = ("order = ['a']\nimport time\ntime.sleep(0.2)", "order.append('b')", "order.append('c')")
        results = await asyncio.gather(*(shared.run(code) for code in codes))
        counts = [result.execution_count or 0 for result in results]
        assert [result.status for result in results] == ["ok"] * 3 and counts == sorted(set(counts))
        assert (await shared.run("order")).result == "['a', 'b', 'c']"

    async def test_id_in_use_is_refused_and_free_again_after_close(self, sandbox: Sandbox) -> None:
        session = await sandbox.session("taken")
        assert session.id == "taken"
        with pytest.raises(UsageError, match="taken"):
            await sandbox.session("taken")
        assert (await session.run("1")).result == "1"
        await session.close()
        again = await sandbox.session("taken")
        await again.close()

    async def test_closed_session_says_so(self, sandbox: Sandbox) -> None:
        session = await sandbox.session()
        await session.close()
        await session.close()
        with pytest.raises(SessionClosed):
            await session.run("1")
        for act in (partial(session.get, "x"), partial(session.put, "x", b""), session.files):
            with pytest.raises(SessionClosed):
                await act()

    async def test_close_ends_every_process(self, sandbox: Sandbox) -> None:
        kernel, child = f"cdk-{secrets.token_hex(4)}", f"cdc-{secrets.token_hex(8)}"
        session = await sandbox.session()
        await session.run(
            f"import ctypes, subprocess\nctypes.CDLL(None).prctl(15, {kernel!r}.encode(), 0, 0, 0)\n"
            f"child = subprocess.Popen(['sh', '-c', 'read line', {child!r}], stdin=subprocess.PIPE)"
        )
        assert marked(kernel) and marked(child)
        await session.close()
        await until(lambda: not marked(kernel) and not marked(child), "the session's processes end")

    async def test_close_while_code_runs(self, sandbox: Sandbox) -> None:
        session = await sandbox.session()
        items, _ = await begun(session, STOPPABLE["loop"])
        await asyncio.wait_for(session.close(), 15)
        with pytest.raises(SessionClosed):
            await asyncio.wait_for(rest(items), 15)

    # --- host tools ---

    async def test_code_calls_tools_of_the_host(self, sandbox: Sandbox) -> None:
        async def slow(arguments: dict[str, object]) -> object:
            await asyncio.sleep(0)
            return {"pid": os.getpid(), "given": arguments}

        def fails(arguments: dict[str, object]) -> object:
            raise ToolError("no such city")

        tools: list[HostTool] = [
            Tool("add", lambda arguments: arguments["a"] + arguments["b"]),
            Tool("slow", slow),
            Tool("fails", fails),
            Tool("unjson", lambda _: object()),
        ]
        session = await sandbox.session(tools=tools)
        try:
            assert (await session.run("add(a=40, b=2)")).result == "42"
            told = await session.run("told = slow(text='é😀', deep=[{'n': None}])\ntold['pid'], told['given']")
            assert told.result == f"({os.getpid()}, {{'text': 'é😀', 'deep': [{{'n': None}}]}})"
            assert (await session.run("sum(add(a=i, b=i) for i in range(50))")).result == str(sum(range(0, 100, 2)))
            error = (await session.run("fails()")).error
            assert error is not None and "no such city" in error.message
            error = (await session.run("unjson()")).error
            assert error is not None and "JSON" in error.message
            error = (await session.run("add(a=1)")).error
            assert error is not None and "KeyError" in error.message
            await session.run("import os\nos._exit(0)")
            assert (await session.run("add(a=1, b=1)")).result == "2", "tools are there in a fresh kernel too"
            assert (await session.run("[v for v in dir() if v in ('call_host',)]")).result == "[]"
        finally:
            await session.close()

    async def test_time_limit_holds_while_a_tool_is_at_work(self, sandbox: Sandbox) -> None:
        async def forever(arguments: dict[str, object]) -> object:
            await asyncio.Event().wait()
            return None

        session = await sandbox.session(tools=[Tool("forever", forever)])
        try:
            result = await asyncio.wait_for(session.run("kept = 1\nforever()", timeout=0.5), 30)
            assert result.status == "timeout"
            assert (await session.run("kept")).result == "1"
        finally:
            await session.close()

    async def test_every_call_is_told_between_the_outputs(self, sandbox: Sandbox) -> None:
        def fails(arguments: dict[str, object]) -> object:
            raise ToolError("no such city")

        session = await sandbox.session(tools=[Tool("add", lambda a: a["a"] + a["b"]), Tool("fails", fails)])
        try:
            code = "print('before')\nadd(a=1, b=2)\ntry: fails(x=1)\nexcept ToolFailed: pass\nprint('after')"
            seen = [item async for item in session.execute(code)]
            first, second = [item for item in seen if isinstance(item, HostCall)]
            assert (first.tool, first.arguments, first.result, first.error) == ("add", {"a": 1, "b": 2}, 3, None)
            assert (second.tool, second.result, second.error) == ("fails", None, "no such city")
            assert first.id != second.id and 0 <= first.duration < 30 and first.approval == ""
            assert isinstance(seen[-1], ExecutionResult) and seen[-1].status == "ok"
            after = next(n for n, i in enumerate(seen) if isinstance(i, StreamOutput) and "after" in i.text)
            assert seen.index(second) < after
        finally:
            await session.close()

    async def test_many_calls_run_at_once_and_answer_in_order(self, sandbox: Sandbox) -> None:
        together = asyncio.Barrier(5)

        async def met(arguments: dict[str, object]) -> object:
            await asyncio.wait_for(together.wait(), 30)
            return arguments["n"]

        def odd(arguments: dict[str, object]) -> object:
            if arguments["n"] == 3:
                raise ToolError("three is refused")
            return arguments["n"]

        session = await sandbox.session(tools=[Tool("met", met), Tool("odd", odd)])
        try:
            many = "from codeact.sandbox.kerneltools import call_many\ncall_many"
            assert (await session.run(f"{many}('met', [{{'n': n}} for n in range(5)])")).result == "[0, 1, 2, 3, 4]"
            calls = "call_many('odd', [{'n': n} for n in range(200)]"
            error = (await session.run(f"{calls})")).error
            assert error is not None and error.message == "three is refused"
            told = await session.run(f"found = {calls}, True)\nstr(found[3]), found[:3], len(found), sum(found[4:])")
            assert told.result == f"('three is refused', [0, 1, 2], 200, {sum(range(4, 200))})"
        finally:
            await session.close()

    async def test_a_call_waits_for_a_person(self, sandbox: Sandbox) -> None:
        paid: list[object] = []

        def pay(arguments: dict[str, object]) -> object:
            paid.append(arguments["sum"])
            return "paid"

        session = await sandbox.session(tools=[Tool("pay", pay, ToolRules(approval="always"))])
        try:
            error = (await session.run("pay(sum=1)")).error
            assert error is not None and error.name == "ToolRefused" and "nobody to ask" in error.message
            refused = "try: pay(sum=3)\nexcept ToolRefused as e: told = str(e)\n"
            seen = []
            async for item in session.execute(f"first = pay(sum=2)\n{refused}print(first, told)", ask=60):
                seen.append(item)
                if isinstance(item, Question):
                    assert (item.kind, item.tool) == ("approval", "pay") and not session.answer("forged", Answer())
                    allowed = item.arguments == {"sum": 2}
                    assert session.answer(item.id, Answer(approved=allowed, text="too much"))
                    assert not session.answer(item.id, Answer(approved=True)), "answered already"
            result = seen[-1]
            assert isinstance(result, ExecutionResult)
            assert result.stdout == "paid the user refused this call of pay: too much\n"
            calls = [item for item in seen if isinstance(item, HostCall)]
            assert [c.approval for c in calls] == ["approved", "refused"] and paid == [2]
            assert [c.id for c in calls] == [item.id for item in seen if isinstance(item, Question)]
        finally:
            await session.close()

    async def test_an_interrupt_withdraws_a_question(self, sandbox: Sandbox) -> None:
        paid: list[object] = []
        session = await sandbox.session(tools=[Tool("pay", paid.append, ToolRules(approval="always"))])
        try:
            seen = []
            code = "kept = 1\ntry: pay(sum=1)\nexcept KeyboardInterrupt: print('stopped')"
            async for item in session.execute(code, ask=600):
                seen.append(item)
                if isinstance(item, Question):
                    await session.interrupt()
                    assert not session.answer(item.id, Answer(approved=True)), "nobody waits for it any more"
            (call,) = [item for item in seen if isinstance(item, HostCall)]
            assert call.error == "the code was stopped before the call ended" and not paid
            assert isinstance(seen[-1], ExecutionResult) and seen[-1].stdout == "stopped\n"
            assert (await session.run("kept")).result == "1"
        finally:
            await session.close()

    async def test_a_person_answers_input(self, shared: Session) -> None:
        seen = []
        code = (
            "import getpass\nname = input('name? ')\nsecret = getpass.getpass('word? ')\nprint(name, secret)\n"
            "input('more? ')"
        )
        async for item in shared.execute(code, ask=60):
            seen.append(item)
            if isinstance(item, Question):
                text = {"name? ": "é😀", "word? ": "hidden"}.get(item.prompt)
                assert item.kind == "input" and item.password is (item.prompt == "word? ")
                assert shared.answer(item.id, Answer(text=text))
        result = seen[-1]
        assert isinstance(result, ExecutionResult) and result.stdout == "é😀 hidden\n"
        assert result.error is not None and result.error.name == "EOFError"
        calls = [item for item in seen if isinstance(item, HostCall)]
        assert [(c.tool, c.arguments["prompt"], c.result) for c in calls] == [
            ("input", "name? ", "é😀"),
            ("input", "word? ", None),
            ("input", "more? ", None),
        ]

    async def test_tools_are_refused_what_is_no_call(self, sandbox: Sandbox) -> None:
        session = await sandbox.session(tools=[Tool("add", lambda a: 0)])
        try:
            code = (
                "from codeact.sandbox.kernelapp import Kernel, CALL_MARK\nk = Kernel.instance()\n"
                "ident = k._get_shell_context_var(k._shell_parent_ident)\n"
                "def ask(text): return k._input_request(text, ident, k.get_parent('shell'))\n"
            )
            asked = ["", "plain", "{}", "[]", "1", '{"tool": "nope", "arguments": {}}', '{"tool": 1, "arguments": 2}']
            for text in asked:
                result = await session.run(f"{code}'error' in ask(CALL_MARK + {text!r})")
                assert result.result == "True", (text, result)
        finally:
            await session.close()
