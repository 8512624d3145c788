"""The formats as a whole: names, prompts, history."""

from __future__ import annotations

import subprocess
import sys

import pytest

from codeact.contracts import ActionFormat, Image
from codeact.errors import UsageError
from codeact.formats import DROPPED_NOTICE, FORMATS, format_for_model, get_format
from tests.formats.parsing import parse


@pytest.mark.parametrize("name", FORMATS)
def test_formats_by_name(name: str) -> None:
    found = get_format(name)
    assert isinstance(found, ActionFormat)
    assert found.name == name
    assert bool(found.tools) == (name == "tool_call")
    assert found.stop == (() if name == "tool_call" else ("\nExecution Output:",))


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match=r"'xml'.*tags, fences, tool_call"):
        get_format("xml")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("CodeActAgent-Mistral-7b-v0.1", "tags"),
        ("SmolLM2-1.7B-Instruct.Q8_0.gguf", "tags"),
        ("gpt-4o-mini", "tags"),
        ("claude-sonnet-4", "tags"),
        ("google/gemini-2.5-pro", "tags"),
        ("anything", "tags"),
        ("", "tags"),
        ("gpt-5", "tool_call"),
        ("openai/gpt-5.1-mini", "tool_call"),
        ("o3", "tool_call"),
        ("azure/o4-mini", "tool_call"),
        ("gpt-oss-20b", "tool_call"),
        ("qwen-o3d", "tags"),
    ],
)
def test_format_for_model(model: str, name: str) -> None:
    assert format_for_model(model) == name


@pytest.mark.parametrize("name", FORMATS)
def test_prompt_names_the_form_and_the_environment(name: str) -> None:
    prompt = get_format(name).system_prompt("Installed: {numpy}, pandas.\n")
    assert prompt.endswith("Installed: {numpy}, pandas.")
    assert {"tags": "<execute>", "fences": "```python", "tool_call": "tool `python`"}[name] in prompt
    assert "Execution Output:" in prompt


@pytest.mark.parametrize("name", ["tags", "fences"])
def test_the_example_in_the_prompt_parses(name: str) -> None:
    prompt = get_format(name).system_prompt("")
    opening = {"tags": "\n<execute>", "fences": "\n```python"}[name]
    assert parse(prompt[prompt.index(opening) :], name).code == "total = sum(range(10))\nprint(total)"


@pytest.mark.parametrize("name", ["tags", "fences"])
def test_history(name: str) -> None:
    chosen = get_format(name)
    text = {"tags": "So:\n<execute>\nx\n</execute>", "fences": "So:\n```python\nx\n```"}[name]
    reply = parse(text + "\nand more", name)
    assert reply.dropped
    assert chosen.render_reply(reply).model_dump(exclude_defaults=True) == {"role": "assistant", "text": text}
    image = Image(mime="image/png", data="aGk=")
    observation = chosen.render_observation(reply, f"1\n{DROPPED_NOTICE}", (image,))
    assert (observation.role, observation.images) == ("user", (image,))
    assert observation.text == f"Execution Output:\n1\n{DROPPED_NOTICE}"


def test_importing_loads_nothing_heavy() -> None:
    script = (
        "import sys, codeact.formats; print([m for m in ('openai', 'numpy', 'IPython', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
