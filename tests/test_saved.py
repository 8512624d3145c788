"""`codeact chat` keeps its conversations, and `--resume` goes on with them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from codeact import saved, trajectory
from codeact.contracts import ExecutionResult, Reply, StateChanges, Variable
from codeact.errors import UsageError
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionStarted,
    ModelReplied,
    Resumed,
    RunFinished,
    RunStarted,
    ToolCalled,
)
from codeact.trajectory import TrajectoryWriter, load
from tests.servers import ScriptedServer
from tests.terminal import command, environment, terminal
from tests.test_cli import Cli, at, cli, error_of, execute, home

__all__ = ["cli", "home"]

MADE = ExecutionResult(status="ok", changes=StateChanges(added=(Variable(name="n", type="int"),)))


def recording(path: Path, *cells: str) -> Path:
    """A conversation of these cells, each of which is said to have made ``n``, with one call of a tool."""
    told: list[Event] = [RunStarted(task="Begin.", format="tags")]
    for turn, code in enumerate(cells, 1):
        call = ToolCalled(turn=turn, id="1", tool="answer", arguments={}, result=42)
        told += [
            ModelReplied(turn=turn, reply=Reply(text=execute(code), code=code)),
            ExecutionStarted(turn=turn, code=code),
            call,
            ExecutionFinished(turn=turn, result=MADE),
        ]
    told += [
        ModelReplied(turn=len(cells) + 1, reply=Reply(text="Done.", answer="Done.")),
        RunFinished(reason="answered", answer="Done."),
    ]
    trajectory.save(path, told)
    return path


def kept(home: Path) -> list[Path]:
    return sorted((home / ".local" / "state" / "codeact" / "chats").glob("*"))


def tasks(path: Path) -> list[str]:
    return [event.task for event in load(path).events if isinstance(event, RunStarted)]


def test_a_chat_is_kept_for_its_user_and_goes_on(cli: Cli, home: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("6")
    with ScriptedServer([execute("n = int(open('in.txt').read())"), "Read."]) as server:
        done = cli("chat", *at(server), "--file", "in.txt", input="First\n")
    assert (done.returncode, done.stdout) == (0, "Read.\n"), done.stderr
    found = re.search(r"kept: go on with codeact chat --resume (\S+)\n", done.stderr)
    (path,) = kept(home)
    assert found is not None and found[1] == path.stem
    assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0
    for arguments, message in (
        (["--resume", path.stem], "Second"),
        ([str(path), "--resume"], "Third"),
    ):
        with ScriptedServer([execute("n += 1; print('n is', n)"), "Counted."]) as server:
            done = cli("chat", *at(server), *arguments, input=f"{message}\n/state\n")
            read = server.requests[0]["messages"][-1]["content"]
        assert done.returncode == 0, done.stderr
        assert "Counted." in done.stdout and "n  int" in done.stdout
        assert read.startswith(f"{message}\n\n[The conversation goes on in a new kernel.")
        assert "Back: n (int)." in done.stderr and "Files put in again: in.txt." in done.stderr
        assert "running the code again: cell 1 of" in done.stderr
        assert "in.txt" not in done.stderr.partition("files in the workspace")[2], "a file that was given is no result"
    assert "n is 8" in done.stderr
    assert kept(home) == [path] and tasks(path) == ["First", "Second", "Third"]
    assert sum(isinstance(event, Resumed) for event in load(path).events) == 2


def test_nothing_is_kept_of_a_chat_without_messages(cli: Cli, home: Path) -> None:
    with ScriptedServer([]) as server:
        done = cli("chat", *at(server), input="/state\n")
    assert done.returncode == 0 and kept(home) == [] and "kept" not in done.stderr


def test_where_nothing_can_be_kept_the_chat_goes_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ScriptedServer(["One.", "Two."]) as server:
        done = cli("chat", *at(server), input="First\nSecond\n", XDG_STATE_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (0, "One.\nTwo.\n")
    assert done.stderr.count("warning: this conversation cannot be kept: Not a directory") == 1


def test_a_chat_that_is_saved_is_kept_there_only(cli: Cli, home: Path, tmp_path: Path) -> None:
    old = recording(tmp_path / "old.jsonl", "n = answer()")
    before = old.read_bytes()
    with ScriptedServer([execute("print('n is', n)"), "Done."]) as server:
        done = cli("chat", *at(server), "--resume", old, "--save", "new.jsonl", input="Second\n")
    assert done.returncode == 0 and "n is 42" in done.stderr, done.stderr
    assert old.read_bytes() == before and kept(home) == []
    new = load(tmp_path / "new.jsonl").events
    assert new[: len(load(old).events)] == load(old).events and tasks(tmp_path / "new.jsonl") == ["Begin.", "Second"]


def test_what_cannot_be_resumed_is_one_line(cli: Cli, tmp_path: Path) -> None:
    def failed(*arguments: str | Path) -> str:
        done = cli("chat", *arguments)
        assert done.returncode == 2
        return error_of(done)

    assert "write codeact chat --resume what" in failed("what")
    (tmp_path / "precious.txt").write_text("mine")
    assert "not a codeact trajectory" in failed("--resume", "precious.txt")
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_conversations_are_found_by_id_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no conversation is kept yet"):
        saved.find(None)
    with pytest.raises(UsageError, match="there is no conversation 'what': none is kept yet"):
        saved.find("what")
    paths = []
    for _ in range(2):
        with saved.begin() as writer:
            paths.append(writer.path)
    ids = [saved.id_of(path) for path in paths]
    assert ids[0] != ids[1] and saved.id_of(tmp_path / "x.jsonl") is None
    os.utime(paths[0], (1, 1))
    assert saved.find(None) == paths[1] and saved.find(ids[0]) == paths[0]
    os.utime(paths[1], (0, 0))
    assert saved.find(None) == paths[0], "the one that was gone on with last"
    with pytest.raises(UsageError, match=f"the latest are {ids[0]}, {ids[1]}"):
        saved.find("what")
    assert saved.find("a/b.jsonl") == Path("a/b.jsonl") and saved.find("../what") == Path("../what")


def test_a_trajectory_has_one_writer_at_a_time(tmp_path: Path) -> None:
    path = recording(tmp_path / "chat.jsonl", "n = 1")
    before = path.read_bytes()
    writer, found = TrajectoryWriter.reopen(path)
    with writer:
        for open_again in (TrajectoryWriter.reopen, TrajectoryWriter):
            with pytest.raises(UsageError, match="is being written by another run"):
                open_again(path)
        writer.write(RunStarted(task="More."))
    assert path.read_bytes().startswith(before) and load(path).events[:-1] == found.events
    with pytest.raises(UsageError, match="cannot be gone on with: No such file"):
        TrajectoryWriter.reopen(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("missing", [1, 5])
def test_a_last_line_without_its_end_is_mended(tmp_path: Path, missing: int) -> None:
    path = recording(tmp_path / "chat.jsonl", "n = 1")
    whole = load(path).events
    path.write_bytes(path.read_bytes()[:-missing])
    writer, found = TrajectoryWriter.reopen(path)
    with writer:
        writer.write(RunStarted(task="More."))
    assert found.torn is (missing > 1) and found.events == (whole[:-1] if found.torn else whole)
    assert load(path).events[:-1] == found.events and tasks(path) == ["Begin.", "More."]


def test_a_chat_that_was_killed_goes_on(home: Path, tmp_path: Path, cli: Cli) -> None:
    replies = [execute("n = 6"), "Six.", execute("n = 7\nprint('begun', flush=True)\nwhile True: pass")]
    with ScriptedServer(replies) as server:
        chat = subprocess.Popen(
            command("chat", *at(server)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(home),
        )
        assert chat.stdin is not None and chat.stderr is not None
        chat.stdin.write("First\nSecond\n")
        chat.stdin.flush()
        assert "  begun\n" in chat.stderr
        chat.send_signal(signal.SIGKILL)
        chat.wait(30)
        chat.stdin.close()
        chat.stderr.close()
    with ScriptedServer([execute("print('n is', n)"), "Done."]) as server:
        done = cli("chat", *at(server), "--resume", input="Third\n")
    assert done.returncode == 0 and "n is 6" in done.stderr, done.stderr
    assert "cell 2 (had not ended when the recording ended)" in done.stderr
    ends = [event.reason for event in load(kept(home)[0]).events if isinstance(event, RunFinished)]
    assert ends == ["answered", "cancelled", "answered"]


def test_ctrl_c_stops_what_is_run_again(home: Path, tmp_path: Path) -> None:
    path = recording(tmp_path / "chat.jsonl", "n = answer()", "open('going', 'w')\nwhile True: pass", "n = 3")
    with (
        ScriptedServer([execute("print('n is', n)"), "Done."]) as server,
        terminal(command("chat", *at(server), "--resume", path), environment(home), tmp_path) as screen,
    ):
        screen.expect("cell 2 of 3")
        screen.type("\x03")
        screen.expect("Not run, because it was stopped: cell 3")
        screen.expect("›")
        screen.type("Go on\r")
        screen.expect("n is 42")
        screen.expect("›")
        screen.type("\x04")
        assert screen.wait() == 0
    assert tasks(path) == ["Begin.", "Go on"]


@pytest.mark.parametrize("arguments", [["run", "Begin.", "--model", "replay:{}"], ["replay", "--live", "{}"]])
def test_a_recorded_run_replays_with_recorded_results_of_tools(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    path = recording(tmp_path / "old.jsonl", "print(answer(), 'it was')", "print(answer()); answer()")
    done = cli(*(argument.format(path) for argument in arguments))
    assert (done.returncode, done.stdout) == (0, "Done.\n"), done.stderr
    assert "42 it was" in done.stderr
    assert "the recording does not hold the call answer()" in done.stderr
