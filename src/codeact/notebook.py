"""A trajectory as a Jupyter notebook that runs."""

from __future__ import annotations

import json
from typing import Any

from codeact.contracts import DisplayOutput, ErrorOutput, ExecutionResult, Output, StreamOutput
from codeact.events import ExecutionFinished, ExecutionStarted, ModelReplied, Notice, Resumed, RunFinished, RunStarted
from codeact.trajectory import Trajectory


def to_notebook(trajectory: Trajectory) -> dict[str, Any]:
    """The conversation in nbformat 4.5, ready for ``json.dump``: text as Markdown cells, code with its outputs.

    A cell that ended in an error has the tag ``raises-exception``, so that "run all" goes on after it as the agent did.
    Code that never ran stands in a Markdown cell. Outputs are what the sandbox sent: Jupyter does not trust them until
    they are run again. Host tools do not exist there, and files have to be put beside the notebook.
    """
    cells: list[dict[str, Any]] = []
    code_cell: dict[str, Any] | None = None
    unrun: str | None = None

    def text(source: str) -> None:
        cells.append({"cell_type": "markdown", "metadata": {}, "source": source})

    for event in trajectory.events:
        if unrun is not None and isinstance(event, ModelReplied | RunStarted | RunFinished):
            text(_not_run(unrun))
            unrun = None
        match event:
            case RunStarted():
                files = ", ".join(f"`{name}`" for name in event.files)
                note = f"\n\nFiles that this needs beside the notebook: {files}" if files else ""
                text(f"## Task\n\n{event.task}{note}")
            case ModelReplied(reply=reply):
                if reply.thought.strip() and reply.code is not None:
                    text(reply.thought.strip())
                if reply.answer is not None:
                    text(f"## Answer\n\n{reply.answer.strip()}")
                unrun = reply.code
            case ExecutionStarted():
                code_cell = _code_cell(event.code)
                cells.append(code_cell)
                unrun = None
            case ExecutionFinished() if code_cell is not None:
                _fill(code_cell, event.result)
                code_cell = None
            case Notice() | Resumed():
                text("> " + event.text.replace("\n", "\n> "))
            case RunFinished() if event.reason != "answered":
                text(f"*The run ended without an answer ({event.reason}). {event.message}*")
            case _:
                pass
    if unrun is not None:
        text(_not_run(unrun))
    for number, cell in enumerate(cells, 1):
        cell["id"] = f"cell-{number}"  # the same notebook each time
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "codeact": {"created": trajectory.header.created, "version": trajectory.header.codeact},
    }
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def _code_cell(code: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": code, "outputs": [], "execution_count": None}


def _not_run(code: str) -> str:
    fence = "```"
    while fence in code:
        fence += "`"
    return f"*This code was not run:*\n\n{fence}python\n{code}\n{fence}"


def _fill(cell: dict[str, Any], result: ExecutionResult) -> None:
    """Give a code cell what its execution gave."""
    count = result.execution_count
    cell["execution_count"] = count
    outputs: list[dict[str, Any]] = []
    for output in result.outputs:
        last = outputs[-1] if outputs else {}
        if isinstance(output, StreamOutput) and last.get("name") == output.name:
            last["text"] += output.text
        else:
            outputs.append(_output(output, count))
    if result.status != "ok":
        cell["metadata"]["tags"] = ["raises-exception"]
    if result.status not in ("ok", "error") or result.notice:
        note = f"[{result.notice or result.status}]\n"
        outputs.append({"output_type": "stream", "name": "stderr", "text": note})
    cell["outputs"] = outputs


def _output(output: Output, count: int | None) -> dict[str, Any]:
    match output:
        case StreamOutput():
            return {"output_type": "stream", "name": output.name, "text": output.text}
        case DisplayOutput():
            data = {mime: _json_or_text(mime, value) for mime, value in output.data.items()}
            if output.is_result:
                return {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": count}
            return {"output_type": "display_data", "data": data, "metadata": {}}
        case ErrorOutput():
            trace = list(output.traceback) or [f"{output.name}: {output.message}"]
            return {"output_type": "error", "ename": output.name, "evalue": output.message, "traceback": trace}


def _json_or_text(mime: str, value: str) -> Any:
    """JSON types hold objects in a notebook; text that is no JSON stays text."""
    if mime == "application/json" or mime.endswith("+json"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
