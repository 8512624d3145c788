from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeact.contracts import Image, Reply, ReplyDelta, TextDelta, ToolCallDelta
from codeact.formats import get_format
from tests.formats.parsing import cut, noise, parse

FORMAT = get_format("tool_call")


def call(arguments: str, *, name: str = "python", places: list[int] | None = None) -> tuple[Reply, list[ReplyDelta]]:
    parser = FORMAT.parser()
    shown = list(parser.feed(ToolCallDelta(index=0, id="c1", name=name)))
    for piece in cut(arguments, places or []):
        shown += parser.feed(ToolCallDelta(index=0, arguments=piece))
    return parser.finish(), shown


def test_plain_call() -> None:
    parser = FORMAT.parser()
    parser.feed(TextDelta(text="I add."))
    parser.feed(ToolCallDelta(index=0, id="c1", name="python", arguments='{"co'))
    parser.feed(ToolCallDelta(index=0, arguments='de": "x = 1\\nx"}'))
    assert not parser.complete
    reply = parser.finish()
    assert (reply.code, reply.thought, reply.text, reply.dropped) == ("x = 1\nx", "I add.", "I add.", False)
    assert reply.problem is None
    assert reply.tool_call is not None
    assert reply.tool_call.arguments == '{"code": "x = 1\\nx"}'


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ('{"code": "x = 1\ny = 2"}', "x = 1\ny = 2"),
        ('{"code": "print("hi")\\nx"}', 'print("hi")\nx'),
        ('{"code": """x = 1\ny = "a\\n"\n"""}', 'x = 1\ny = "a\\n"'),
        ('{"code": "re.match(\'\\d\', s)"}', "re.match('\\d', s)"),
        ('"print(1)"', "print(1)"),
        ('"{\\"code\\": \\"print(1)\\"}"', "print(1)"),
        ('{"code": "x"} trailing', "x"),
        ("print('bare')\nx = {1: 2}", "print('bare')\nx = {1: 2}"),
        ("{x for x in y}", "{x for x in y}"),
        ('"""doc"""\nx = 1', '"""doc"""\nx = 1'),
        ('"a" + "b"', '"a" + "b"'),
        ("'a'.upper()", "'a'.upper()"),
        ('{"source": "x = 1"}', "x = 1"),
        ('{"text": "x = 1"}', "x = 1"),
        ('{"code": "```python\\nx = 1\\n```"}', "x = 1"),
        ('{"code": "s = \\"\\ud800\\""}', 's = "\ufffd"'),
    ],
)
def test_arguments_are_read_tolerantly(arguments: str, code: str) -> None:
    reply, _ = call(arguments)
    assert (reply.code, reply.problem) == (code, None)
    message = FORMAT.render_reply(reply)
    assert message.tool_call is not None
    assert json.loads(message.tool_call.arguments) == {"code": code}


@pytest.mark.parametrize(
    "arguments", ['{"code": "x = 1', '{"code', "{", '{"code": ""}', "{}", "", '{"code": 3}', "[" * 9000]
)
def test_without_whole_code_nothing_runs(arguments: str) -> None:
    reply, _ = call(arguments if arguments[:1] != "[" else '{"code": ' + arguments)
    assert reply.code == ""
    assert reply.problem
    assert "nothing was run" in reply.problem
    message = FORMAT.render_reply(reply)
    assert message.tool_call is not None
    assert isinstance(json.loads(message.tool_call.arguments), dict)


def test_tools_by_other_names() -> None:
    assert call('{"code": "x"}', name="code_interpreter")[0].problem is None
    reply, _ = call('{"code": "x"}', name="runner")
    assert reply.code == "x"
    assert reply.problem and "'runner'" in reply.problem
    for arguments in ('{"query": "x"}', "x = 1", "{}"):
        reply, _ = call(arguments, name="search")
        assert reply.code == ""
        assert reply.problem and "'search'" in reply.problem
    message = FORMAT.render_reply(reply)
    assert message.tool_call and message.tool_call.name == "python"


@pytest.mark.parametrize(("index", "id"), [(1, "c2"), (0, "c2"), (1, None)])
def test_further_calls_are_dropped(index: int, id: str | None) -> None:
    parser = FORMAT.parser()
    parser.feed(ToolCallDelta(index=0, id="c1", name="python", arguments='{"code": "x"}'))
    parser.feed(ToolCallDelta(index=index, id=id, name="python", arguments='{"code": "y"}'))
    assert parser.complete
    assert parser.feed(ToolCallDelta(index=index, arguments="more")) == ()
    reply = parser.finish()
    assert (reply.code, reply.dropped) == ("x", True)


def test_id_and_name_repeated_in_every_piece() -> None:
    parser = FORMAT.parser()
    for piece in ('{"code"', ': "x"}'):
        parser.feed(ToolCallDelta(index=0, id="c1", name="python", arguments=piece))
    reply = parser.finish()
    assert (reply.code, reply.dropped) == ("x", False)


def test_a_missing_id_is_made_up() -> None:
    parser = FORMAT.parser()
    parser.feed(ToolCallDelta(index=0, name="python", arguments='{"code": "x"}'))
    reply = parser.finish()
    assert reply.tool_call is not None
    assert len(reply.tool_call.id) == 9
    assert FORMAT.render_observation(reply, "1").tool_call_id == reply.tool_call.id


def test_text_without_a_call() -> None:
    assert parse("It is 4.", "tool_call").answer == "It is 4."
    assert parse("<execute>x</execute>", "tool_call").code == "x"
    assert parse("```python\nx\n```", "tool_call").code == "x"
    assert parse("```python\nx\n```", "tool_call", lenient=False).code is None
    reply = parse("<think>Hm.</think>It is 4.<|im_end|>", "tool_call", lenient=False)
    assert (reply.thought, reply.answer) == ("Hm.", "It is 4.")
    assert parse("<think>Hm.", "tool_call", lenient=False).problem
    assert parse("", "tool_call").problem


def test_text_beside_a_call_is_never_run() -> None:
    parser = FORMAT.parser()
    parser.feed(TextDelta(text="<execute>bad</execute>"))
    parser.feed(ToolCallDelta(index=0, id="c1", name="python", arguments='{"code": "good"}'))
    assert parser.finish().code == "good"


def test_history() -> None:
    image = Image(mime="image/png", data="aGk=")
    reply, _ = call('{"code": "x"}')
    message = FORMAT.render_reply(reply)
    assert (message.role, message.tool_call) == ("assistant", reply.tool_call)
    observation = FORMAT.render_observation(reply, "1", (image,))
    assert (observation.role, observation.text, observation.tool_call_id) == ("tool", "1", "c1")
    assert observation.images == (image,)
    observation = FORMAT.render_observation(parse("<execute>x</execute>", "tool_call"), "1", (image,))
    assert (observation.role, observation.text, observation.tool_call_id) == ("user", "Execution Output:\n1", None)


def test_schema() -> None:
    function = FORMAT.tools[0]["function"]
    assert isinstance(function, dict)
    assert function["name"] == "python"
    assert function["parameters"]["required"] == ["code"]


moderate = settings(max_examples=200, derandomize=True, deadline=None)


@moderate
@given(st.text(max_size=60), st.booleans(), st.lists(st.integers(0, 500), max_size=20))
def test_code_is_shown_while_it_arrives(code: str, ascii_only: bool, places: list[int]) -> None:
    reply, shown = call(json.dumps({"code": code}, ensure_ascii=ascii_only), places=places)
    assert "".join(delta.text for delta in shown) == code
    assert {delta.kind for delta in shown} <= {"code"}
    assert reply.code is not None
    assert reply.code.split() == code.split() or "```" in code


@moderate
@given(noise | st.text() | noise.map(lambda t: '{"code": "' + t), st.lists(st.integers(0, 500), max_size=20))
def test_every_call_has_one_outcome_in_every_cut(arguments: str, places: list[int]) -> None:
    reply, shown = call(arguments)
    again, shown_again = call(arguments, places=places)
    assert reply == again
    assert "".join(d.text for d in shown) == "".join(d.text for d in shown_again)
    assert reply.code or reply.problem
    reply.model_dump_json()
    assert all(a.kind == b.kind for a, b in pairwise(shown_again))
