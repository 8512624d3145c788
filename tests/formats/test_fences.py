from __future__ import annotations

import pytest

from codeact.contracts import Reply
from tests.formats import parsing
from tests.formats.parsing import STOP


def parse(text: str, *, lenient: bool = False) -> Reply:
    return parsing.parse(text, "fences", lenient=lenient)


def test_plain_action() -> None:
    text = "I add.\n\n```python\nx = 1\nx + 1\n```"
    reply = parse(text + "\n")
    assert (reply.code, reply.thought, reply.text, reply.dropped) == ("x = 1\nx + 1", "I add.", text, False)
    assert parse("It is 2.").answer == "It is 2."


@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
@pytest.mark.parametrize("language", ["python", "py", "Python3", "ipython", " python", "{python}", "python title=a"])
def test_fences_and_languages(fence: str, language: str) -> None:
    assert parse(f"{fence}{language}\nx = 1\n{fence}\n").code == "x = 1"


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"a": 1}\n```',
        "```\nx = 1\n```",
        "```bash\nls\n```",
        "```pythonic\nx\n```",
        "I write `python` or ```python``` here.",
        "Use `` ```python `` to open.",
        "````markdown\n```python\nx = 1\n```\n````",
        "```text\n```python\nx = 1\n```",
        "~~~text\n```python\nx = 1\n```\n~~~",
        "<think>\n```python\nx = 1\n```\n</think>\nFine.",
        "<thought>\n```python\nx = 1\n```\n</thought>\nFine.",
    ],
)
def test_not_an_action(text: str) -> None:
    assert parse(text).code is None
    assert parse(text + "\n\n```python\ny = 2\n```").code == "y = 2"


@pytest.mark.parametrize(
    "code",
    [
        "s = '''\n```\n'''",
        's = """a\n```python\nb\n```\n"""\nx = 1',
        "s = '```'  # ```",
        "# ```python",
        "x = 1\n\n\ny = 2",
        "s = '''\n``\n'''",
    ],
)
def test_fences_in_strings_and_comments_do_not_close(code: str) -> None:
    assert parse(f"```python\n{code}\n```\n").code == code
    assert parse(f"```python\n{code}\n```\nDone.").code == code


def test_longer_fences_hold_shorter_ones() -> None:
    assert parse("````python\nx = 1\n```\ny = 2\n````").code == "x = 1\n```\ny = 2"
    assert parse("```python\nx = 1\n`````").code == "x = 1"


@pytest.mark.parametrize("rest", ["", "\n", "\n``", "\n```", "\n```  ", "```", "<|im_end|>", STOP + "\n2\n```"])
def test_unclosed_block_runs(rest: str) -> None:
    reply = parse("```python\nx = 1" + rest)
    assert reply.code == "x = 1"
    assert not reply.dropped
    assert reply.text.endswith("```")


def test_fence_in_a_string_never_closed_counts_when_there_is_no_other() -> None:
    assert parse('```python\ns = """open\n```\nI am done.').code == 's = """open'


def test_line_that_begins_with_a_fence_ends_the_block() -> None:
    reply = parse("```python\nx = 1\n```python\ny = 2\n```")
    assert (reply.code, reply.dropped, reply.text) == ("x = 1", True, "```python\nx = 1\n```")


def test_several_blocks() -> None:
    reply = parse("```python\nx = 1\n```\n```python\ny = 2\n```")
    assert (reply.code, reply.dropped) == ("x = 1", True)
    assert parse("```python\nx = 1\n```\nDone.").dropped


def test_fence_behind_text_and_indented() -> None:
    assert parse("I add: ```python\nx = 1\n```").code == "x = 1"
    assert parse("1. Add:\n\n   ```python\n   if x:\n       y = 1\n   ```\n").code == "if x:\n    y = 1"


def test_unclosed_fence_of_another_language_hides_nothing() -> None:
    assert parse("```json\n{}\n~~~python\nx = 1\n~~~").code == "x = 1"


def test_stray_closing_thought() -> None:
    reply = parse("Hm.\n</think>\n```python\nx = 1\n```")
    assert (reply.thought, reply.code) == ("Hm.", "x = 1")
    reply = parse("<thought>open\n```python\nx = 1\n```")
    assert (reply.thought, reply.code) == ("open", "x = 1")


def test_empty_block() -> None:
    reply = parse("```python\n\n```")
    assert reply.code == ""
    assert reply.problem
    assert parse("```python\n```\n```python\nx = 1\n```").code == "x = 1"


def test_invention_is_cut() -> None:
    reply = parse("I wait.\nExecution Output:\n```python\nx = 1\n```")
    assert (reply.code, reply.answer) == (None, "I wait.")


def test_lenient_takes_tags() -> None:
    text = "So:\n<execute>\nx = 1\n</execute>"
    assert parse(text, lenient=True).code == "x = 1"
    assert parse(text).answer == text
    assert parse(text + "\n```python\ny = 2\n```", lenient=True).code == "y = 2"
    assert parse("<solution>4</solution>", lenient=True).answer == "4"


def test_live_pieces() -> None:
    text = "I `add`.\n```json\n{}\n```\n```python\n\n  x = 1\n  y\n```\nmore"
    assert parsing.live(text, "thought", "fences") == "I `add`.\n```json\n{}\n```\n"
    assert parsing.live(text, "code", "fences") == "  x = 1\n  y"
