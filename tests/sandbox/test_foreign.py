"""Kernels of installed kernelspecs in the local sandbox: a stock ipykernel, bash, R where it is installed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from codeact.contracts import Sandbox, Session
from codeact.errors import KernelStartError, SandboxError, UsageError
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox.canaries import ALL, run_canaries
from tests.sandbox.as_user import LIMITS
from tests.sandbox.contract import FILE_LIMIT, SandboxContract, Tool, begun, rest
from tests.sandbox.jupyter import surroundings, variables
from tests.sandbox.processes import marked, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

APPLIES = (
    "state_persists", "output_arrives_while_the_code_runs", "each_kind_of_output_has_its_place",
    "error_has_name_message_and_line", "pictures_are_inline", "display_comes_before_the_result",
    "magics_shell_and_await", "text_arrives_as_written", "interrupt_of_nothing_does_nothing",
    "closing_the_iterator_stops_the_code", "many_small_writes_lose_nothing", "files_go_in_and_out",
    "files_can_be_carried_while_code_runs", "bad_paths_are_refused", "missing_file_is_told", "sessions_share_nothing",
    "executions_queue", "id_in_use_is_refused_and_free_again_after_close", "closed_session_says_so",
    "close_ends_every_process", "close_while_code_runs",
)  # fmt: skip
R_SPEC = Path("/usr/lib/R/site-library/IRkernel/kernelspec")  # where Debian's package r-cran-irkernel puts it


@pytest.fixture(scope="module")
def kernelspecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for kernelspecs, with that of bash in it."""
    place = tmp_path_factory.mktemp("jupyter")
    command = [sys.executable, "-m", "bash_kernel.install", "--prefix", str(place)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with surroundings({**variables(place), "SECRET_OF_THE_HOST": "sesame"}):
        yield place / "share" / "jupyter" / "kernels"


def add(kernelspecs: Path, name: str, **spec: Any) -> str:
    """Write a kernelspec and answer with its name."""
    (kernelspecs / name).mkdir(exist_ok=True)
    (kernelspecs / name / "kernel.json").write_text(json.dumps({"display_name": name, "language": "x", **spec}))
    return name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(kernelspecs: Path) -> AsyncIterator[Sandbox]:
    async with make_sandbox("local", kernel="python3", file=FILE_LIMIT) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bash(kernelspecs: Path) -> AsyncIterator[Session]:
    async with make_sandbox("local", kernel="bash", **LIMITS) as sandbox:
        yield await sandbox.session()


class TestContract:
    """What of the contract can be asked of a kernel that is not ours. Set below."""


for test in APPLIES:
    setattr(TestContract, f"test_{test}", getattr(SandboxContract, f"test_{test}"))


@pytest.mark.parametrize("kind", ["sleep", "loop", "child"])
async def test_interrupts_and_limits_keep_the_state(shared: Session, kind: str) -> None:
    await SandboxContract().test_interrupt_stops_and_keeps_the_state(shared, kind)
    await SandboxContract().test_time_limit_stops_and_keeps_output_and_state(shared, kind)


async def test_the_boundary_is_the_same(kernelspecs: Path) -> None:
    needs_our_package = "write-imported-package"
    chosen = [c for c in ALL if c.family != "resources" and c.name != needs_our_package]
    async with make_sandbox("local", kernel="python3", **LIMITS) as sandbox:
        outcomes = await run_canaries(sandbox, chosen)
    assert len(outcomes) > 100
    assert [(o.name, o.detail) for o in outcomes if not o.held] == []


async def test_it_says_what_it_runs_and_nothing_of_its_state(bash: Session) -> None:
    assert "runs bash" in bash.description and "/workspace" in bash.description
    result = await bash.run("x=40; pwd")
    assert (result.status, result.stdout, result.changes) == ("ok", "/workspace\n", None)
    assert (await bash.run("echo $((x + 2))")).stdout == "42\n"
    started = time.monotonic()
    assert await bash.variables() == () and time.monotonic() - started < 1


async def test_it_sees_nothing_of_the_host(bash: Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = await bash.run(f"env; ls -d /home /etc/shadow {Path.home()}/.??*; echo > /dev/tcp/127.0.0.1/{port}")
    assert "sesame" not in told.stdout and "HOME=/tmp/home" in told.stdout
    assert "MPLBACKEND" not in told.stdout and "PYTHONPATH" not in told.stdout
    assert told.stdout.count("No such file") + told.stdout.count("cannot access") >= 2
    assert "Connection refused" in told.stdout


async def test_files(bash: Session) -> None:
    await bash.put("in.txt", b"given")
    assert (await bash.run("cat in.txt; printf made > out.txt")).stdout.startswith("given")
    assert await bash.get("out.txt") == b"made"
    assert {"in.txt", "out.txt"} <= {file.path for file in await bash.files()}


async def test_interrupt_and_time_limit_of_bash(bash: Session) -> None:
    await bash.run("kept=1")
    items, _ = await begun(bash, "echo begun; sleep 600")
    await bash.interrupt()
    assert (await rest(items)).status == "interrupted"
    stopped = await bash.run("sleep 600", timeout=1)
    assert stopped.status == "timeout" and stopped.error is not None and stopped.error.name != "None"
    assert (await bash.run("echo $kept")).stdout == "1\n"


async def test_interrupt_by_message(kernelspecs: Path) -> None:
    argv = [sys.executable, "-c", "from ipykernel.kernelapp import launch_new_instance as go; go()"]
    name = add(kernelspecs, "by-message", argv=[*argv, "-f", "{connection_file}"], interrupt_mode="message")
    async with make_sandbox("local", kernel=name, **LIMITS) as sandbox:
        session = await sandbox.session()
        items, _ = await begun(session, "kept = 1\nimport time\nprint('begun')\ntime.sleep(600)")
        await session.interrupt()
        assert (await rest(items)).status == "interrupted"
        assert (await session.run("kept")).result == "1"


async def test_death_is_told_and_survived_in_the_same_workspace(shared: Session) -> None:
    await shared.run("lost = 1\nopen('kept.txt', 'w').write('kept')")
    died = await shared.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert died.status == "died" and died.notice is not None
    assert "signal 9" in died.notice and "All variables are lost." in died.notice
    fresh = await shared.run("'lost' in globals(), open('kept.txt').read()")
    assert (fresh.result, fresh.fresh_kernel) == ("(False, 'kept')", True)
    await shared.restart()
    assert (await shared.run("open('kept.txt').read()")).result == "'kept'"


async def test_the_memory_limit_holds(kernelspecs: Path) -> None:
    async with make_sandbox("local", kernel="python3", **LIMITS) as sandbox:
        session = await sandbox.session()
        result = await session.run("held = bytearray(b'x') * (600 << 20)")
        assert result.status == "died" or (result.error is not None and result.error.name == "MemoryError")
        assert (await session.run("6 * 7")).result == "42"


async def test_output_comes_whole_through_the_relay(shared: Session) -> None:
    code = "import sys\nfor i in range(80):\n    sys.stdout.write(f'{i:04d}' * 25_000)\n    sys.stdout.flush()"
    result = await shared.run(code)
    assert result.status == "ok" and result.notice is None and result.full_output is not None
    whole = await shared.get(result.full_output.removeprefix("/workspace/"))
    assert whole == b"".join(b"%04d" % i * 25_000 for i in range(80))


async def test_output_that_is_lost_is_told(shared: Session) -> None:
    result = await shared.run("print('x' * (40 << 20))")  # one message, larger than any that is taken in
    assert result.notice is not None and "Output was lost" in result.notice
    assert (await shared.run("6 * 7")).result == "42"


async def test_host_tools_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(UsageError, match="cannot call host tools"):
        await sandbox.session(tools=[Tool("add", lambda arguments: 0)])


async def test_it_cannot_be_forked(shared: Session) -> None:
    with pytest.raises(SandboxError, match="cannot be forked"):
        await shared.fork()


async def test_an_unknown_kernel_is_refused_by_the_names_of_those_that_are(kernelspecs: Path) -> None:
    with pytest.raises(UsageError, match=r"no kernel 'nope' is installed; there is .*bash.*python3"):
        make_sandbox("local", kernel="nope")
    with pytest.raises(UsageError, match="only the sandbox local"):
        make_sandbox("unsafe-process", kernel="bash")
    with pytest.raises(UsageError, match="cannot have the network of the host"):
        make_sandbox("local", kernel="bash", network="host")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"argv": []}, "starts nothing"),
        ({"argv": ["no-such-program-here"]}, "which is not there"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["~"]}}}, "holds more than the kernel"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["/"]}}}, "holds more than the kernel"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["/etc"]}}}, "holds more than the kernel"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["/proc/self/cwd"]}}}, "holds more than"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["/opt/not/there"]}}}, "No such file"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": ["~/.ssh"]}}}, "holds more than the kernel"),
        ({"argv": ["/bin/true"], "metadata": {"codeact": {"readable": "/usr"}}}, "a list of paths"),
    ],
)
async def test_what_would_open_the_host_is_refused(
    kernelspecs: Path, tmp_path: Path, spec: dict[str, Any], complaint: str
) -> None:
    (tmp_path / ".ssh").mkdir()
    with surroundings({"HOME": str(tmp_path)}), pytest.raises(UsageError, match=complaint):
        make_sandbox("local", kernel=add(kernelspecs, "bad", **spec))


async def test_a_link_does_not_hide_where_it_leads(kernelspecs: Path, elsewhere: Path) -> None:
    (elsewhere / "innocent").symlink_to("/etc")
    readable = {"codeact": {"readable": [str(elsewhere / "innocent")]}}
    with pytest.raises(UsageError, match="it needs /etc, which holds more"):
        make_sandbox("local", kernel=add(kernelspecs, "bad", argv=["/bin/true"], metadata=readable))


async def test_a_kernel_that_ends_at_its_start_is_told_with_its_last_words(kernelspecs: Path) -> None:
    name = add(kernelspecs, "broken", argv=["/bin/sh", "-c", "echo no such luck >&2; exit 3"])
    async with make_sandbox("local", kernel=name, **LIMITS) as sandbox:
        with pytest.raises(KernelStartError, match="status 3: no such luck"):
            await sandbox.session()


async def test_a_kernel_below_tmp_is_seen_in_the_tmp_of_the_session(kernelspecs: Path) -> None:
    name = add(kernelspecs, "below", argv=["/bin/sh", "{resource_dir}/start"])
    folder = kernelspecs / name
    assert folder.is_relative_to(tempfile.gettempdir())
    (folder / "start").write_text("echo seen as $0, alone: $(ls /tmp) >&2; exit 3")
    async with make_sandbox("local", kernel=name, **LIMITS) as sandbox:
        with pytest.raises(KernelStartError, match="status 3: seen as /"):
            await sandbox.session()


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory of its own, that is not below /tmp."""
    cache = Path.home() / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="codeact-test-") as folder:
        yield Path(folder)


async def test_what_a_kernelspec_sets_is_expanded_inside(elsewhere: Path) -> None:
    installation = elsewhere / "installation"
    (installation / "bin").mkdir(parents=True)
    shutil.copy("/bin/sh", installation / "bin" / "own-shell")
    (installation / "data").write_text("read from the installation")
    (elsewhere / "other").write_text("not part of it")
    script = (
        'echo "$SEEN" "$(command -v own-shell)" "$(cat ../installation/data {0}/data {0}/../other)" '
        '"$(stat -c %a "$0")" "$(cat {resource_dir}/extra)" >&2; exit 1'
    ).replace("{0}", str(installation))
    argv = [str(installation / "bin" / "own-shell"), "-c", script, "{connection_file}"]
    kernelspecs = elsewhere / "kernels"
    kernelspecs.mkdir()
    name = add(kernelspecs, "own", argv=argv, env={"SEEN": "${HOME}:${SECRET_OF_THE_HOST}"})
    (kernelspecs / name / "extra").write_text("beside the kernelspec")
    with surroundings({"JUPYTER_PATH": str(elsewhere), "SECRET_OF_THE_HOST": "sesame"}):
        async with make_sandbox("local", kernel=name, **LIMITS) as sandbox:
            with pytest.raises(KernelStartError) as failed:
                await sandbox.session()
    told = str(failed.value)
    assert "/tmp/home:${SECRET_OF_THE_HOST}" in told and "not part of it" not in told
    assert f"{installation}/bin/own-shell read from the installation 600 beside the kernelspec" in told


async def test_closing_ends_every_process(kernelspecs: Path) -> None:
    mark = f"cdf-{secrets.token_hex(8)}"
    async with make_sandbox("local", kernel="bash", **LIMITS) as sandbox:
        session = await sandbox.session()
        await session.run(f"(exec -a {mark} sleep 600) &")
        await until(lambda: marked(mark), "the process is there")
        descriptors = len(os.listdir("/proc/self/fd"))
        await session.close()
        await until(lambda: not marked(mark), "the session's processes end")
        assert len(os.listdir("/proc/self/fd")) < descriptors


@pytest.mark.skipif(not R_SPEC.exists(), reason="R's kernel is not installed: apt-get install r-cran-irkernel")
async def test_r(kernelspecs: Path) -> None:
    shutil.copytree(R_SPEC, kernelspecs / "ir")
    async with make_sandbox("local", kernel="ir", **LIMITS) as sandbox:
        session = await sandbox.session()
        assert re.search(r"runs R \d+\.\d+", session.description)
        await session.put("data.csv", b"a,b\n1,2\n3,4\n")
        result = await session.run("d <- read.csv('data.csv'); sum(d$a * d$b)")
        assert result.status == "ok" and "[1] 14" in str(result.outputs)
        failed = await session.run("stop('on purpose')")
        assert failed.status == "error" and failed.error is not None and "on purpose" in failed.error.message
        running = asyncio.create_task(session.run("cat('begun\\n'); flush.console(); Sys.sleep(600)", timeout=1.5))
        assert (await running).status == "timeout"
        assert "[1] 2" in str((await session.run("nrow(d)")).outputs), "its state is kept"
        seen = await session.run("cat(Sys.getenv('SECRET_OF_THE_HOST'), length(list.files('/root')), getwd())")
        assert seen.stdout == " 0 /workspace"
        assert (await session.run("writeLines('made', 'out.txt')")).status == "ok"
        assert await session.get("out.txt") == b"made\n"
