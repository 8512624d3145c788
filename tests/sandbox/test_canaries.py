"""The battery's judges on the host notice success: a naive host, a slow one, one that grows, one that believes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.contracts import DisplayOutput, ExecutionResult, FileInfo, Sandbox, Session, StreamOutput
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox import canaries
from codeact.sandbox.canaries import ALL, Canary
from codeact.sandbox.hostparts import PARTS, Trial
from codeact.sandbox.hostwatch import Decoy, Watch, active, render
from tests.sandbox.as_user import LIMITS
from tests.sandbox.processes import until
from tests.sandbox.test_attacks import NAMES
from tests.test_page import HOSTILE

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAIVE = (
    "download-through-links", "download-of-what-is-no-file", "download-of-a-file-that-changes", "download-without-end",
    "names-of-downloads", "names-of-uploads", "upload-through-links", "use-up-watches", "use-up-processes",
    "use-up-pipes",
)  # fmt: skip
NOTICED = (*NAIVE, "bombs-in-what-is-shown", "largest-messages", "flood-of-pictures", "take-the-processor",
           "calls-of-tools-that-are-not-there", "wrong-signatures", "scripts-in-what-is-shown")  # fmt: skip
"""Attacks whose success the tests below let the battery see."""

INERT = ("<style>", "<table><!--")  # without a policy, and in a browser that takes them otherwise
BY_NAME = {canary.name: canary for canary in ALL}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with make_sandbox("local", **LIMITS) as sandbox:
        yield sandbox


class Naive:
    """A session whose files are those of a directory of the host, by whatever name."""

    id = description = "naive"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def put(self, path: str, data: bytes) -> None:
        Path(self.folder, path).write_bytes(data)

    async def get(self, path: str) -> bytes:
        return Path(self.folder, path).read_bytes()

    async def files(self) -> tuple[FileInfo, ...]:
        return tuple(FileInfo(path=str(p.relative_to(self.folder)), size=3) for p in self.folder.rglob("*"))

    async def run(self, code: str, *, timeout: float | None = None) -> ExecutionResult:
        return ExecutionResult(status="error", notice="there is no kernel")


async def naively(name: str, tmp_path: Path) -> str | None:
    bait = tmp_path / "host" / "bait"
    bait.parent.mkdir()
    bait.write_text("bait")
    workspace = tmp_path / "host" / "workspace"
    for folder in ("taken", "odd", "given", "names", "swap"):
        (workspace / folder).mkdir(parents=True)
    (workspace / "taken" / "file").symlink_to(bait)
    (workspace / "given" / "file").symlink_to(bait)
    (workspace / "odd" / "pipe").write_bytes(b"as if it were a file")
    (workspace / "swap" / "file").write_bytes(b"root:x:0:0")
    (workspace / "long").mkdir()
    (workspace / "long" / "nothing").write_bytes(b"")
    Path(os.fsdecode(bytes(workspace / "names") + b"/\xff")).write_text("own")
    session: Session = Naive(workspace)  # type: ignore[assignment]
    try:
        return await PARTS[name](Trial(session, session, {"file": str(bait)}))
    except (OSError, ValueError) as error:  # what the battery takes for a failure of the host
        return str(error)


@pytest.mark.parametrize("name", NAIVE)
async def test_naive_host_is_noticed(name: str, tmp_path: Path) -> None:
    assert await naively(name, tmp_path)


async def test_loaded_pickle_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "bait.pickled").touch()
    session: Session = Naive(tmp_path)  # type: ignore[assignment]
    assert await PARTS["bombs-in-what-is-shown"](Trial(session, session, {"file": str(tmp_path / "bait")}))


async def test_a_neighbour_that_lacks_something_is_noticed(sandbox: Sandbox) -> None:
    session = await sandbox.session()
    await session.run("import os, subprocess, ctypes\nlibc = ctypes.CDLL(None)\nwhile libc.inotify_init() >= 0: pass")
    assert "cannot" in str(await PARTS["use-up-watches"](Trial(session, session, {})))
    await session.close()


async def test_every_part_belongs_to_an_attack() -> None:
    assert set(PARTS) <= set(NAMES)


async def attempted(sandbox: Sandbox, canary: Canary, watch: Watch, neighbour: Session) -> canaries.Outcome:
    async with canaries._bait(sandbox) as (facts, _), watch:
        return await canaries._Battery(sandbox, facts, neighbour, watch).alone(canary)


@pytest.mark.parametrize(
    ("name", "limits", "complaint"),
    [
        ("largest-messages", {"growth": 8 << 20}, "the host grew by"),
        ("flood-of-pictures", {"growth": 1 << 20}, "the host grew by"),
        ("take-the-processor", {"slowest": 0.0}, "another session waited for"),
    ],
)
async def test_growth_and_slowness_are_noticed(
    sandbox: Sandbox, name: str, limits: dict[str, float], complaint: str
) -> None:
    neighbour = await sandbox.session()
    watch = Watch(neighbour, **limits)  # type: ignore[arg-type]
    outcome = await attempted(sandbox, BY_NAME[name], watch, neighbour)
    assert not outcome.held and complaint in outcome.detail, outcome
    await neighbour.close()


async def test_a_neighbour_that_dies_is_noticed(sandbox: Sandbox) -> None:
    neighbour = await sandbox.session()
    async with Watch(neighbour) as watch:
        before = watch.begin()
        await neighbour.run("import os\nos._exit(1)")
        await until(lambda: watch._wrong, "the neighbour is asked again")
        assert "another session noticed" in str(await watch.complaint(before))
    await neighbour.close()


async def test_a_call_of_a_tool_is_noticed(sandbox: Sandbox) -> None:
    neighbour = await sandbox.session()
    async with Watch(neighbour) as watch:
        before = watch.begin()
        session = await sandbox.session(tools=[Decoy("decoy", watch)])
        code = "from codeact.sandbox.kernelapp import call_host\ncall_host('decoy', {'a': 1})"
        assert (await session.run(code)).result == "'called'"
        assert "a tool of the host was called" in str(await watch.complaint(before))
        await session.close()
    await neighbour.close()


async def test_a_tool_that_is_called_by_another_name_is_noticed(sandbox: Sandbox) -> None:
    neighbour = await sandbox.session()
    async with canaries._bait(sandbox) as (facts, _), Watch(neighbour) as watch:
        battery = canaries._Battery(sandbox, facts | {"tool": "eval"}, neighbour, watch)
        outcome = await battery.alone(BY_NAME["calls-of-tools-that-are-not-there"])
    assert not outcome.held and "a tool of the host was called" in outcome.detail
    await neighbour.close()


async def test_a_forgery_that_is_believed_is_noticed() -> None:
    for output in (StreamOutput(name="stdout", text="a forgery"), DisplayOutput(data={"text/plain": "a forgery"})):
        result = ExecutionResult(status="ok", outputs=(output,))
        assert "not signed" in str(render(result, "forgery"))
        assert render(result, "another") is None


@pytest.mark.parametrize("hostile", [t for t in HOSTILE if "<" in t and not t.startswith(INERT)])
async def test_what_acts_in_a_page_is_noticed(hostile: str) -> None:
    assert active(f"<main>{hostile}</main>")


async def test_what_the_chosen_network_lets_through_is_told_apart() -> None:
    chosen = [BY_NAME[name] for name in ("tcp-to-loopback", "tcp-to-a-neighbour", "raw-socket", "path-socket")]
    told: list[canaries.Outcome] = []
    async with make_sandbox("local", network="host", **LIMITS) as sandbox:
        outcomes = await canaries.run_canaries(sandbox, chosen, told.append)
    assert [(outcome.held, outcome.chosen) for outcome in outcomes] == [(False, True)] * 2 + [(True, False)] * 2
    assert told == outcomes
    async with make_sandbox("unsafe-process", network="host") as sandbox:
        (outcome,) = await canaries.run_canaries(sandbox, [BY_NAME["abstract-socket"]])
    assert (outcome.held, outcome.chosen) == (False, False), "no choice of a network opens this"
