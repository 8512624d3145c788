"""Control groups: the layouts of both versions, as files in a folder, and the real ones of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codeact.sandbox import Sandbox, cgroups

MEMORY, PROCESSES = 256 << 20, 40


def layout(tmp_path: Path, membership: str) -> tuple[Path, Path]:
    root = tmp_path / "cgroup"
    root.mkdir()
    file = tmp_path / "membership"
    file.write_text(membership)
    return root, file


def test_version_2_makes_the_group_beside_its_own(tmp_path: Path) -> None:
    root, membership = layout(tmp_path, "0::/user.slice/app.slice/terminal.scope\n")
    (root / "user.slice/app.slice/terminal.scope").mkdir(parents=True)
    (root / "user.slice/app.slice/cgroup.subtree_control").write_text("cpu memory pids")
    made = cgroups.create("1-a", MEMORY, PROCESSES, root, membership)
    assert made is not None
    (path,) = made.paths
    assert path == root / "user.slice/app.slice/codeact-1-a"
    assert (path / "memory.max").read_text() == str(256 << 20)
    assert (path / "pids.max").read_text() == "40"
    assert (path / "memory.swap.max").read_text() == "0"
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\n")
    assert made.out_of_memory_kills() == 3


def test_version_2_whose_children_are_not_limited_is_none(tmp_path: Path) -> None:
    root, membership = layout(tmp_path, "0::/session.scope\n")
    (root / "session.scope").mkdir()
    (root / "cgroup.subtree_control").write_text("cpu")
    assert cgroups.create("1-a", MEMORY, PROCESSES, root, membership) is None
    assert not list(root.glob("**/codeact-*"))


def test_version_1_makes_one_group_in_each_hierarchy(tmp_path: Path) -> None:
    root, membership = layout(tmp_path, "8:pids:/jobs\n4:memory:/\n0::/\n")
    (root / "pids/jobs").mkdir(parents=True)
    (root / "memory").mkdir()
    made = cgroups.create("1-a", MEMORY, PROCESSES, root, membership)
    assert made is not None
    assert made.paths == [root / "memory/codeact-1-a", root / "pids/jobs/codeact-1-a"]
    assert (root / "memory/codeact-1-a/memory.limit_in_bytes").read_text() == str(256 << 20)
    assert (root / "pids/jobs/codeact-1-a/pids.max").read_text() == "40"


@pytest.mark.parametrize("membership", ["", "0::/\n", "3:cpu:/\n"])
def test_without_control_groups_there_is_none(tmp_path: Path, membership: str) -> None:
    root, file = layout(tmp_path, membership)
    assert cgroups.create("1-a", MEMORY, PROCESSES, root, file) is None


def test_groups_of_dead_owners_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    root, membership = layout(tmp_path, "0::/\n")
    (root / "cgroup.subtree_control").write_text("memory pids")
    dead, living = root / "codeact-999999999-a", root / f"codeact-{os.getpid()}-a"
    dead.mkdir()
    living.mkdir()
    cgroups.sweep(root, membership)
    assert not dead.exists()
    assert living.exists()


async def test_a_real_session_is_in_its_groups_and_leaves_none_behind() -> None:
    made = cgroups.create(f"{os.getpid()}-probe", MEMORY, PROCESSES)
    if made is None:
        pytest.skip("no control group can be made here (not root, or none writable)")
    made.remove()
    assert not any(path.exists() for path in made.paths)
    parents = [path.parent for path in made.paths]
    mine = f"codeact-{os.getpid()}-*"
    before = [set(parent.glob(mine)) for parent in parents]
    async with Sandbox("local") as sandbox:
        await sandbox.session()
        during = [set(parent.glob(mine)) - old for parent, old in zip(parents, before, strict=True)]
        for new in during:
            assert any(len((path / "cgroup.procs").read_text().split()) >= 2 for path in new)
    assert not any(path.exists() for new in during for path in new)
