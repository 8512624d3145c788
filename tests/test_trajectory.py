import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from codeact.contracts import ExecutionResult, Reply, StreamOutput, ToolCall
from codeact.errors import TrajectoryError, UsageError
from codeact.events import (
    EVENT,
    LIVE,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    ModelDelta,
    ModelReplied,
    Notice,
    Observed,
    RunFinished,
    RunStarted,
)
from codeact.trajectory import Header, Trajectory, TrajectoryWriter, load, save, to_conversations
from tests.test_observation import results

HEADER = b'{"codeact_trajectory":1,"created":"2026-01-01T00:00:00+00:00","codeact":"0.1.0"}\n'

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
times = st.floats(0, 1e10)
events = st.one_of(
    st.builds(RunStarted, time=times, task=texts, files=st.lists(texts).map(tuple), prompt=texts),
    st.builds(ModelDelta, time=times, kind=st.just("code"), text=texts),
    st.builds(ModelReplied, time=times, turn=st.integers(), reply=st.builds(Reply, text=texts, code=texts)),
    st.builds(ExecutionStarted, time=times, turn=st.integers(0, 9), code=texts),
    st.builds(ExecutionFinished, time=times, turn=st.integers(0, 9), result=results),
    st.builds(Observed, time=times, turn=st.integers(0, 9), text=texts),
    st.builds(Notice, time=times, text=texts, to_model=st.booleans()),
    st.builds(RunFinished, time=times, reason=st.just("time"), message=texts, cost=st.none() | st.floats(0, 9)),
)


@given(st.lists(events, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, happened: list[Event]) -> None:
    save(tmp_path / "t.jsonl", happened, model="m")
    read = load(tmp_path / "t.jsonl")
    assert read.events == tuple(e for e in happened if not isinstance(e, LIVE))
    assert not read.torn and read.header.model_dump()["model"] == "m"


def test_the_header_is_the_first_line(tmp_path: Path) -> None:
    save(tmp_path / "t.jsonl", [Notice(text="x")])
    header, event = (tmp_path / "t.jsonl").read_text().splitlines()
    assert json.loads(header)["codeact_trajectory"] == 1
    assert json.loads(event)["type"] == "notice"


def test_lone_surrogates_do_not_lose_the_event(tmp_path: Path) -> None:
    save(tmp_path / "t.jsonl", [Notice(text="a\ud800é")])
    assert load(tmp_path / "t.jsonl").events[0].model_dump()["text"] == "a?é"


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    code = (
        "import sys, time; from codeact.events import Notice; from codeact.trajectory import TrajectoryWriter\n"
        "w = TrajectoryWriter(sys.argv[1]); w.write(Notice(text='kept')); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "t"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    [event] = load(tmp_path / "t").events
    assert isinstance(event, Notice) and event.text == "kept"


def test_a_torn_last_line_is_dropped_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "t"
    first, last = EVENT.dump_json(Notice(text="one")), EVENT.dump_json(Notice(text="zweiü"))
    for end in range(1, len(last)):
        path.write_bytes(HEADER + first + b"\n" + last[:end])
        read = load(path)
        assert read.torn and len(read.events) == 1
    path.write_bytes(HEADER + first + b"\n" + last)
    assert not load(path).torn and len(load(path).events) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"{", "line 1: not a codeact trajectory"),
        (b'{"a": 1}\n', "line 1: not a codeact trajectory"),
        (b"[" * 100_000, "line 1: not a codeact trajectory"),
        (b"\x89PNG\r\n\xff\n", "line 1: not a codeact trajectory"),
        (b'{"codeact_trajectory": 2}\n', "version 2; this codeact reads 1"),
        (HEADER + b"{broken\n", "line 2: Invalid JSON"),
        (HEADER + b'{"type":"notice","text":"a"}\n\n{"type":"dance"}\n', "line 4: unknown type of event 'dance'"),
        (HEADER + b'{"type":"dance"}', "line 2: unknown type of event 'dance'"),
        (HEADER + b'{"type":"notice"}\n', "line 2: notice.text: Field required"),
        (HEADER + b"\xff\xfe\n", "line 2: "),
    ],
)
def test_broken_files_are_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrajectoryError) as caught:
        load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with path.open("wb") as file:
        file.write(HEADER)
        file.truncate(140 * 1024 * 1024)  # a hole, not a real 140 MB
    with pytest.raises(TrajectoryError, match="line 2: longer than"):
        load(path)


def test_what_cannot_be_read_or_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=str(path)):
            load(path)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "missing" / "t", tmp_path / "fifo", Path("/dev/full")):
        with pytest.raises(UsageError, match=str(path)):
            TrajectoryWriter(path)


def test_only_trajectories_are_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis.txt"
    foreign.write_text("ten years of work")
    with pytest.raises(UsageError, match="is not a trajectory"):
        TrajectoryWriter(foreign)
    assert foreign.read_text() == "ten years of work"
    own = tmp_path / "t.jsonl"
    own.touch()
    save(own, [Notice(text="old"), Notice(text="older")])
    save(own, [Notice(text="new")])
    assert [e.model_dump()["text"] for e in load(own).events] == ["new"]


def test_writing_after_the_end_is_an_error(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "t") as writer:
        writer.write(Notice(text="in time"))
    with pytest.raises(TrajectoryError, match="cannot be written"):
        writer.write(Notice(text="late"))


def test_the_record_of_the_original() -> None:
    call = ToolCall(id="1", name="python", arguments="{}")
    happened: list[Event] = [
        RunStarted(task="Count.", prompt="You are…", files=("a.csv",)),
        ModelReplied(turn=1, reply=Reply(text="Hm.\n<execute>1</execute>", code="1", thought="Hm.")),
        ExecutionStarted(turn=1, code="1"),
        ExecutionFinished(
            turn=1, result=ExecutionResult(status="ok", outputs=(StreamOutput(name="stdout", text="1"),))
        ),
        Observed(turn=1, text="1"),
        ModelReplied(turn=2, reply=Reply(text="", code="2", tool_call=call)),
        Notice(text="Be quick.", to_model=True),
        Observed(turn=2, text="2"),
        ModelReplied(turn=3, reply=Reply(text="One.", answer="One.")),
        RunFinished(reason="answered", answer="One."),
    ]
    record = to_conversations(Trajectory(events=tuple(happened)), "run-1")
    assert record == {
        "id": "run-1",
        "conversations": [
            {"role": "system", "content": "You are…"},
            {"role": "user", "content": "Count.\n\nFiles in /workspace: a.csv"},
            {"role": "assistant", "content": "Hm.\n<execute>1</execute>"},
            {"role": "user", "content": "Execution Output:\n1"},
            {"role": "assistant", "content": "<execute>\n2\n</execute>"},
            {"role": "user", "content": "Execution Output:\n2\nBe quick."},
            {"role": "assistant", "content": "One."},
        ],
    }


def test_values_are_frozen_json() -> None:
    trajectory = Trajectory(header=Header(created="c"), events=(Notice(text="x"),))
    assert isinstance(trajectory, BaseModel)
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory


def test_importing_loads_nothing_heavy() -> None:
    heavy = "{'nbformat', 'pygments', 'markdown_it', 'nh3', 'numpy', 'matplotlib', 'IPython', 'PIL'}"
    code = f"import sys, codeact.trajectory, codeact.notebook, codeact.page; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
