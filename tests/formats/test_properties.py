"""What must hold for every reply, whatever stands in it and however it is cut."""

from __future__ import annotations

import ast
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeact.contracts import Reply, TextDelta
from codeact.formats import FORMATS, get_format
from tests.formats.parsing import STOP, cut, noise, parse, read, replies

moderate = settings(max_examples=300, derandomize=True, deadline=None)
TEXT_FORMATS = ("tags", "fences")
every_format = st.sampled_from(FORMATS)


@moderate
@given(st.one_of(replies, noise), st.lists(st.integers(0, 10_000), max_size=12), every_format, st.booleans())
def test_outcome_and_display_do_not_depend_on_chunks(text: str, places: list[int], name: str, lenient: bool) -> None:
    expected = read(get_format(name).parser(lenient=lenient), [text])
    for pieces in (list(text), cut(text, places)):
        assert read(get_format(name).parser(lenient=lenient), pieces) == expected
        assert read(get_format(name).parser(lenient=lenient), pieces, close_early=False) == expected


@moderate
@given(st.one_of(replies, noise, st.text(max_size=200)), every_format, st.booleans())
def test_every_text_has_exactly_one_outcome(text: str, name: str, lenient: bool) -> None:
    reply = parse(text, name, lenient=lenient)
    assert (reply.code is None) != (reply.answer is None)
    assert reply.code != "" or reply.problem


@moderate
@given(replies, replies, st.sampled_from(TEXT_FORMATS), st.booleans())
def test_kept_stripped_and_ignored_stop_strings_are_the_same(
    text: str, invented: str, name: str, lenient: bool
) -> None:
    stripped = parse(text, name, lenient=lenient)
    assert parse(text + STOP, name, lenient=lenient) == stripped
    assert parse(text + STOP + invented, name, lenient=lenient) == stripped


@moderate
@given(replies, st.sampled_from(TEXT_FORMATS))
def test_invented_observations_never_land_in_code(text: str, name: str) -> None:
    reply = parse(text + STOP + "\ninvented = 1", name)
    assert "Execution Output:" not in (reply.code or "") + reply.text
    assert "invented" not in (reply.code or "")


@moderate
@given(replies, st.sampled_from(TEXT_FORMATS), st.booleans())
def test_history_shows_the_action_that_was_run(text: str, name: str, lenient: bool) -> None:
    """Except where a fence had to be supplied, which may then close another, open one before it."""
    reply = parse(text, name, lenient=lenient)
    as_written = text.startswith(reply.text) and text[len(reply.text) :].lstrip(" \t")[:1] in ("", "\n")
    if reply.code and (as_written or (name == "tags" and reply.text.endswith("</execute>"))):
        again = parse(reply.text, name, lenient=lenient)
        assert (again.code, again.dropped) == (reply.code, False)


@moderate
@given(replies, st.sampled_from(TEXT_FORMATS))
def test_nothing_after_complete_changes_the_reply(text: str, name: str) -> None:
    parser = get_format(name).parser()
    for at, char in enumerate(text):
        parser.feed(TextDelta(text=char))
        if parser.complete:
            assert parser.finish() == parse(text[: at + 1] + " and more <execute>", name)
            assert parser.feed(TextDelta(text="late")) == ()
            break
    else:
        assert isinstance(parser.finish(), Reply)


quotes = st.sampled_from(("'", '"', "'''", '"""'))
prefixes = st.sampled_from(("", "r", "b", "f", "Rb", "u"))
contents = st.lists(st.sampled_from([*"abc </>`#!%\n", "'", '"', "</execute>", "```"]), max_size=20).map("".join)


@st.composite
def valid_lines(draw: st.DrawFn) -> str:
    quote = draw(quotes)
    content = draw(contents)
    content = content.replace(quote[0], "-")
    content = content.replace("\n", "\\n" if len(quote) == 1 else "\n")
    line = f"x = {draw(prefixes)}{quote}{content}{quote}"
    return line + draw(st.sampled_from(("", "  # it's a comment", "  # </execute> here", "; y = 1 < 2")))


@moderate
@given(st.lists(valid_lines(), min_size=1, max_size=4).map("\n".join), st.sampled_from(TEXT_FORMATS))
@example("x = '''\n</execute>\n```\n'''", "tags")
@example("x = '''\n</execute>\n```\n'''", "fences")
def test_valid_python_comes_back_exact(code: str, name: str) -> None:
    ast.parse(code)
    if name == "tags":
        text = f"Let us see.\n<execute>\n{code}\n</execute>"
    else:
        text = f"Let us see.\n```python\n{code}\n```"
    reply, shown = read(get_format(name).parser(), list(text))
    assert reply.code == code
    assert reply.text == text
    assert reply.thought == "Let us see."
    assert not reply.dropped
    assert shown[-1] == ("code", code) or "# </execute>" in code


@pytest.mark.parametrize(("name", "opening"), [("tags", ""), ("tags", "<execute>\n"), ("fences", "```python\n")])
@pytest.mark.parametrize("unit", ["x = 'it' # so\n", "word `code` <b> ", "word ` ", "   ", "<thought>", "```\n", "'''"])
def test_time_is_linear_in_single_characters(name: str, opening: str, unit: str) -> None:
    """About 4 µs a character where this was written; 20,000 characters must stay far below a quadratic cost."""
    text = opening + unit * (20_000 // len(unit))
    parser = get_format(name).parser()
    pieces = [TextDelta(text=char) for char in text]
    begin = time.process_time()
    for piece in pieces:
        parser.feed(piece)
    reply = parser.finish()
    assert time.process_time() - begin < 1.0
    assert reply.text or reply.problem
