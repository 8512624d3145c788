"""Files that come out of the sandbox, with names that the sandbox chose."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeact.contracts import Image
from codeact.errors import FileTransferError, UsageError
from codeact.outbox import Outbox
from codeact.sandbox import Sandbox


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", ".", "x\0y"])
def test_a_name_that_leaves_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileTransferError, match="not saved"):
        Outbox(tmp_path / "out")._write(name, b"")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "file").write_text("precious")
    (out / "directory").symlink_to(outside)
    (out / "file").symlink_to(outside / "file")
    box = Outbox(out)
    with pytest.raises(FileTransferError, match="a link leads it out"):
        box._write("directory/file", b"evil")
    box._write("file", b"new")
    assert (outside / "file").read_text() == "precious"
    assert (out / "file").read_text() == "new" and not (out / "file").is_symlink()


def test_files_of_the_run_itself_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text("trajectory")
    box = Outbox(tmp_path, reserved=[tmp_path / "run.jsonl"])
    for name in ("a", "a", "run.jsonl"):
        if name == "a" and not (tmp_path / "a").exists():
            box._write(name, b"1")
            continue
        with pytest.raises(FileTransferError, match="already"):
            box._write(name, b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "run.jsonl").read_text() == "trajectory"


def test_a_directory_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="nothing can be saved"):
        Outbox(tmp_path / "file")
    with pytest.raises(UsageError, match="nothing can be saved"):
        Outbox(Path("/proc/out"))


def test_a_picture_that_is_none_is_not_kept(tmp_path: Path) -> None:
    box = Outbox(tmp_path)
    assert box.keep_image(Image(mime="image/png", data="!!")) == ""
    assert box.keep_image(Image(mime="image/png", data="aGVsbG8=")) == ""
    assert list(tmp_path.iterdir()) == []


async def test_what_the_code_made_comes_out_and_what_went_in_unchanged_does_not(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    changed = tmp_path / "changed.txt"
    given.write_text("same")
    changed.write_text("before")
    async with Sandbox("unsafe-process") as sandbox:
        session = await sandbox.session()
        for path in (given, changed):
            await session.put(path.name, path.read_bytes())
        await session.run("open('changed.txt', 'w').write('after!')")  # of the same length
        await session.run("import os; os.mkdir('d'); open('d/\\x1b[31mnew', 'w').write('x')")
        found, failed = await Outbox(None).collect(session, [given, changed])
        assert (found, failed) == (["changed.txt (6 bytes)", "d/new (1 bytes)"], [])
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "d").write_text("in the way")
        found, failed = await Outbox(tmp_path / "out").collect(session, [given, changed])
        assert found == [str(tmp_path / "out" / "changed.txt")]
        assert len(failed) == 1 and "cannot be saved" in failed[0] and "\x1b" not in failed[0]
    assert (tmp_path / "out" / "changed.txt").read_text() == "after!"
