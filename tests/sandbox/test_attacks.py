"""Every attack against the local sandbox, as root and as an ordinary user; and that attacks notice their success."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from codeact.contracts import ErrorOutput, ExecutionResult, StreamOutput
from codeact.errors import UsageError
from codeact.sandbox import Sandbox, attacks, canaries
from codeact.sandbox.canaries import ALL, DOCTOR, FAMILIES, Canary, Outcome
from tests.sandbox import ordinary
from tests.sandbox.as_user import LIMITS

NAMES = [canary.name for canary in ALL]

SUCCEED_WITHOUT_A_BOUNDARY = (
    "environment", "environment-of-processes", "host-name", "home-directory", "file-of-the-host", "write-to-the-host",
    "see-host-processes", "signal-host-process", "take-descriptor", "join-namespace", "clone3",
    "tcp-to-loopback", "tcp-to-address", "udp-to-loopback", "abstract-socket", "path-socket", "kernel-events",
    "asynchronous-rings", "personality", "set-clock", "unlisted-memory", "raise-limits",
    "processes-of-a-neighbour", "tcp-to-a-neighbour", "abstract-socket-of-a-neighbour",
    "kernel-sockets-of-a-neighbour", "system-v-objects-of-a-neighbour",
    "proc-of-the-host", "handle-of-a-host-process", "signal-by-descriptor",
)  # fmt: skip
SUCCEED_AS_ROOT = (
    "descriptors-of-process-1", "mount", "unmount", "pivot-root", "change-root", "new-mount-interface", "open-tree",
    "move-mount", "open-by-handle", "become-root", "capabilities", "raw-socket", "packet-socket", "reboot",
    "set-host-name", "set-domain-name", "swap-on", "watch-all-files",
)  # fmt: skip


@pytest.fixture(scope="module")
def as_root() -> dict[str, Outcome]:
    if os.geteuid() != 0:
        pytest.skip("these tests do not run as root; as an ordinary user the same attacks are made below")

    async def run() -> list[Outcome]:
        async with Sandbox("local", **LIMITS) as sandbox:
            return await canaries.run_canaries(sandbox, ALL)

    return {outcome.name: outcome for outcome in asyncio.run(run())}


@pytest.fixture(scope="module")
def as_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    told = json.loads(ordinary.run(home_for_others(tmp_path_factory.mktemp("home")), "attacks"))
    return {outcome["name"]: Outcome(**outcome) for outcome in told}


def home_for_others(path: Path) -> Path:
    """A directory that another user may reach: pytest keeps its own to itself."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    (path / "private").write_text("the user's")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_root_sandbox_holds(name: str, as_root: dict[str, Outcome]) -> None:
    assert as_root[name].held, as_root[name].detail


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_users_sandbox_holds(name: str, as_ordinary_user: dict[str, Outcome]) -> None:
    assert as_ordinary_user[name].held, as_ordinary_user[name].detail


@pytest.fixture(scope="module")
def without_a_boundary() -> dict[str, Outcome]:
    async def run() -> list[Outcome]:
        async with Sandbox("unsafe-process") as sandbox:
            return await canaries.run_canaries(sandbox, [canary for canary in ALL if canary.harmless])

    return {outcome.name: outcome for outcome in asyncio.run(run())}


@pytest.mark.parametrize("name", SUCCEED_WITHOUT_A_BOUNDARY)
def test_success_is_noticed(name: str, without_a_boundary: dict[str, Outcome]) -> None:
    assert not without_a_boundary[name].held, without_a_boundary[name].detail


@pytest.mark.skipif(os.geteuid() != 0, reason="these succeed for root only")
@pytest.mark.parametrize("name", SUCCEED_AS_ROOT)
def test_success_is_noticed_as_root(name: str, without_a_boundary: dict[str, Outcome]) -> None:
    assert not without_a_boundary[name].held, without_a_boundary[name].detail


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("fork-bomb", {"processes": -47}),
        ("thread-bomb", {"processes": -47}),
        ("memory-bomb", {"memory": 48 << 20}),
        ("memory-of-many", {"memory": 3 << 20}),
        ("shared-memory-bomb", {"memory": 16 << 20}),
        ("memory-file-bomb", {"memory": 16 << 20}),
        ("fill-temporary-directory", {"disk": 2 << 20}),
        ("fill-shared-memory", {"disk": 2 << 20}),
        ("open-descriptors", {"open_files": -97}),
    ],
)
def test_success_on_a_resource_is_noticed(name: str, facts: dict[str, int]) -> None:
    assert attacks.ATTACKS[name].function(facts), "the attack got what it asked for and did not say so"


def test_dangerous_attacks_are_not_run_without_a_boundary() -> None:
    async def run() -> None:
        async with Sandbox("unsafe-process") as sandbox:
            await canaries.run_canaries(sandbox)

    with pytest.raises(UsageError, match="kill-everything"):
        asyncio.run(run())


def test_the_list_is_whole() -> None:
    assert len(NAMES) == len(set(NAMES)) == len(attacks.ATTACKS) >= 200
    assert {canary.family for canary in ALL} == set(FAMILIES)
    assert {canary.family for canary in DOCTOR} == set(FAMILIES)
    assert all(canary.purpose.endswith(".") for canary in ALL)


def _canary() -> Canary:
    return ALL[0]


@pytest.mark.parametrize(
    ("said", "status", "held"),
    [
        ("HELD: no\n", "ok", True),
        ("BREACH: yes\n", "ok", False),
        ("BREACH: yes\n", "died", False),
        ("BROKEN: NameError\n", "ok", None),
        ("", "ok", None),
        ("", "died", None),
        ("", "timeout", None),
        ("not HELD: at all", "error", None),
    ],
)
def test_verdict_is_never_kinder_than_what_was_said(said: str, status: str, held: bool | None) -> None:
    outputs = (StreamOutput(name="stdout", text=said), ErrorOutput(name="E", message="m"))
    result = ExecutionResult.model_validate({"status": status, "outputs": outputs})
    assert _canary().verdict(result)[0] is held


def test_broken_attack_is_not_taken_for_a_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    attacks.attempt("home-directory", {})  # no facts: a KeyError
    assert capsys.readouterr().out.startswith("BROKEN: KeyError")
