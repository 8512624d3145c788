import json

import nbformat
from nbclient import NotebookClient

from codeact.contracts import DisplayOutput, ErrorOutput, ExecutionResult, Reply, StreamOutput
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionStarted,
    ModelReplied,
    Notice,
    Observed,
    RunFinished,
    RunStarted,
)
from codeact.notebook import to_notebook
from codeact.trajectory import Trajectory
from tests.test_raster import picture

ERROR = ErrorOutput(name="NameError", message="name 'y' is not defined", traceback=("\x1b[31mNameError\x1b[0m",))


def turn(number: int, code: str, result: ExecutionResult, thought: str = "") -> list[Event]:
    return [
        ModelReplied(turn=number, reply=Reply(text=thought + code, thought=thought, code=code)),
        ExecutionStarted(turn=number, code=code),
        Notice(text="watching"),
        ExecutionFinished(turn=number, result=result),
        Observed(turn=number, text="…"),
    ]


def conversation() -> Trajectory:
    printed = (StreamOutput(name="stdout", text="4"), StreamOutput(name="stdout", text="1\n"))
    shown = (
        DisplayOutput(
            data={"text/plain": "{'a': 1}", "application/json": '{"a": 1}', "image/png": picture("png").data}
        ),
        DisplayOutput(data={"text/plain": "42"}, is_result=True),
    )
    events: list[Event] = [
        RunStarted(task="Do it.", files=("data.csv",)),
        *turn(
            1, "x = 41\nprint(x)", ExecutionResult(status="ok", outputs=printed, execution_count=1), "First **this**."
        ),
        *turn(2, "y", ExecutionResult(status="error", outputs=(ERROR,), execution_count=2)),
        *turn(3, "x + 1", ExecutionResult(status="ok", outputs=shown, execution_count=3)),
        *turn(4, "pass", ExecutionResult(status="timeout", notice="Stopped after 1 s.", execution_count=4)),
        ModelReplied(turn=5, reply=Reply(text="", code="while True: print('```')")),
        ModelReplied(turn=6, reply=Reply(text="It is 42.", answer="It is 42.")),
        RunFinished(reason="answered", answer="It is 42."),
        RunStarted(task="More."),
        RunFinished(reason="turns", message="No turns left."),
    ]
    return Trajectory(events=tuple(events))


def test_a_valid_notebook_with_everything_in_it() -> None:
    exported = to_notebook(conversation())
    nbformat.validate(exported)
    assert json.loads(json.dumps(exported)) == exported
    cells = exported["cells"]
    prose = "\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")
    for part in ("Do it.", "`data.csv`", "First **this**.", "It is 42.", "More.", "No turns left.", "watching"):
        assert part in prose
    assert "````python\nwhile True" in prose  # never run, so not to be run now
    codes = [c for c in cells if c["cell_type"] == "code"]
    assert [c["source"] for c in codes] == ["x = 41\nprint(x)", "y", "x + 1", "pass"]
    assert [c["execution_count"] for c in codes] == [1, 2, 3, 4]
    assert codes[0]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "41\n"}]
    assert codes[1]["outputs"][0]["ename"] == "NameError"
    assert [c["metadata"].get("tags") for c in codes] == [None, ["raises-exception"], None, ["raises-exception"]]
    display, result = codes[2]["outputs"]
    assert display["output_type"] == "display_data" and display["data"]["application/json"] == {"a": 1}
    assert result["output_type"] == "execute_result" and result["execution_count"] == 3
    assert "Stopped after 1 s." in codes[3]["outputs"][0]["text"]
    assert exported["metadata"]["kernelspec"]["name"] == "python3"


def test_it_runs_again_in_jupyter_with_the_same_outputs() -> None:
    before = to_notebook(conversation())
    notebook = nbformat.reads(json.dumps(before), as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    codes = [c for c in notebook.cells if c.cell_type == "code"]
    assert codes[0].outputs[0].text == "41\n"
    assert codes[1].outputs[0].ename == "NameError"
    assert codes[2].outputs[0].data["text/plain"] == "42"
