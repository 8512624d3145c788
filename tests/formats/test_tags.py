from __future__ import annotations

import pytest

from codeact.contracts import TextDelta
from codeact.formats import get_format
from tests.formats.parsing import STOP, live, parse


def test_plain_action() -> None:
    reply = parse("I add.\n<execute>\nprint(1 + 1)\n</execute>")
    assert reply.code == "print(1 + 1)"
    assert reply.thought == "I add."
    assert reply.answer is None
    assert reply.text == "I add.\n<execute>\nprint(1 + 1)\n</execute>"
    assert not reply.dropped
    assert reply.problem is None


def test_no_tag_is_an_answer() -> None:
    reply = parse("The sum is 2.\n")
    assert (reply.answer, reply.code, reply.thought, reply.text) == ("The sum is 2.", None, "", "The sum is 2.")


# --- where the block ends


@pytest.mark.parametrize(
    "rest", ["", "\n", "</exec", "</execute", "</", "\n</execute", "<|im_end|>", STOP, STOP + "\n3"]
)
def test_unclosed_block_runs(rest: str) -> None:
    reply = parse("<execute>\nx = 1\nx + 1" + rest)
    assert reply.code == "x = 1\nx + 1"
    assert reply.text == "<execute>\nx = 1\nx + 1\n</execute>"


@pytest.mark.parametrize(
    "code",
    [
        "print('</execute>')",
        'print("a </execute> b")',
        "s = '''\n</execute>\n<execute>\n'''",
        'f"""{x}\n</execute>"""\ny = 2',
        r"s = 'it\'s </execute>'",
        r'r"\" </execute>"',
        "# the </execute> tag\nx = 1",
        "s = ''  # empty, then </execute>\nx = 2",
        "!echo it's\nx = 1",
        "%timeit f('a')  \nx = 1",
        "%%bash\necho it's \"open\nls",
        "x = !echo it's\ny = 1",
        "y = a <execute> b",
        "print('unterminated)\nx = 1",
        "x = 17\nx %5 # it's\ny = 2",
    ],
)
def test_closing_tags_in_strings_and_comments_do_not_close(code: str) -> None:
    assert parse(f"<execute>\n{code}\n</execute>").code == code
    assert parse(f"<execute>\n{code}\n</execute>\nDone.").code == code


@pytest.mark.parametrize("line", ["!echo it's", "%cd it's", "  !ls '"])
def test_quotes_mean_nothing_in_magic_lines(line: str) -> None:
    reply = parse(f"<execute>\nx = 1\n{line}</execute> and on")
    assert reply.code == f"x = 1\n{line}"
    assert reply.dropped


def test_closing_tag_in_a_comment_counts_when_there_is_no_other() -> None:
    text = "<execute>\nx = 1  # done </execute>"
    reply = parse(text + "\n")
    assert (reply.code, reply.text, reply.dropped) == ("x = 1  # done", text, False)
    assert parse(text + STOP + "\n1").code == "x = 1  # done"
    assert parse(text + "\nNow I wait.").dropped


def test_closing_tag_in_a_comment_counts_when_another_block_opens() -> None:
    reply = parse("<execute>\nx = 1  # done </execute>\nAnd:\n<execute>\ny = 2\n</execute>")
    assert (reply.code, reply.dropped) == ("x = 1  # done", True)


def test_closing_tag_in_a_string_never_closed_counts_when_there_is_no_other() -> None:
    assert parse('<execute>\ns = """open\n</execute>\nI am done.').code == 's = """open'
    assert parse("<execute>print('it is)</execute>").code == "print('it is)"


def test_closing_tag_in_a_closed_string_never_counts() -> None:
    assert parse('<execute>\nprint("</execute>")\nx = 1').code == 'print("</execute>")\nx = 1'


def test_opening_tag_at_a_line_start_ends_an_unclosed_block() -> None:
    reply = parse("<execute>\nx = 1\n<execute>\nprint(x)\n</execute>")
    assert (reply.code, reply.dropped) == ("x = 1", True)
    assert reply.text == "<execute>\nx = 1\n</execute>"
    assert parse("<execute>\nx = 1\n<solution>3</solution>").code == "x = 1"


def test_doubled_opening_tag() -> None:
    assert parse("<execute>\n<execute>\nx = 1\n</execute>\n</execute>").code == "x = 1"
    assert parse("<execute><execute>x = 1</execute>").code == "x = 1"


# --- what the code looks like


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        ("x = 1", "x = 1"),
        (" x = 1 ", "x = 1"),
        ("\n\n  \nx = 1\n\n", "x = 1"),
        ("\n    if x:\n        y = 1\n\n    z = 2\n", "if x:\n    y = 1\n\nz = 2"),
        ("\n    x = 1\ny = 2\n", "    x = 1\ny = 2"),
        (" import os\nprint(os)\n", "import os\nprint(os)"),
        ("\n```python\nx = 1\n```\n", "x = 1"),
        ("\n```\nx = 1\n```\n", "x = 1"),
        ("```py\n  x = 1\n", "x = 1"),
        ("\n~~~python\ns = '''\n```\n'''\n~~~", "s = '''\n```\n'''"),
        ("```python x = 1```", "x = 1"),
        ("\ndef broken(:\n", "def broken(:"),
    ],
)
def test_wrapping_is_removed(inside: str, code: str) -> None:
    assert parse(f"<execute>{inside}</execute>").code == code


@pytest.mark.parametrize("opening", ["<execute>", "<Execute>", "<EXECUTE >", "< execute>"])
@pytest.mark.parametrize("closing", ["</execute>", "</Execute >", "< /execute>"])
def test_tags_are_read_loosely(opening: str, closing: str) -> None:
    assert parse(f"{opening}\nx = 1\n{closing}").code == "x = 1"


def test_block_inside_a_markdown_fence() -> None:
    reply = parse("```python\n<execute>\nx = 1\n</execute>\n```\n")
    assert (reply.code, reply.dropped) == ("x = 1", False)
    assert parse("```python\n<execute>\nx = 1\n```\n").code == "x = 1"


# --- what only looks like an action


@pytest.mark.parametrize(
    "mention",
    [
        "I'll use the `<execute>` tag.",
        "Put it in ``<execute> ` </execute>``.",
        "I'll use the <execute> tag to compute.",
        "I'll use <execute> tags.",
        "Code goes between <execute> and </execute>.",
        'It begins with "<execute>" always.',
        "Markers (such as <execute>) matter.",
        "Write <execute>...</execute> then.",
        "Write **<execute>** first.",
        "Empty is <execute></execute> of course.",
        "A stray </execute> here.",
        "<thought>I could <execute>print(0)</execute></thought>",
        "<think>I could <execute>print(0)</execute></think>",
        "Reasoning first.</think>",
    ],
)
def test_mentions_are_not_actions(mention: str) -> None:
    assert parse(mention).code is None
    reply = parse(mention + "\n\n<execute>\nx = 1\n</execute>")
    assert (reply.code, reply.dropped) == ("x = 1", False)
    assert parse(mention + " Like this: <execute>x = 1</execute>").code == "x = 1"


def test_tentative_opening_gives_way_to_the_next() -> None:
    reply = parse("I wrap it with <execute> as you said:\n<execute>\nx = 1\n</execute>")
    assert (reply.code, reply.thought) == ("x = 1", "I wrap it with <execute> as you said:")


def test_opening_in_the_middle_of_a_line_counts() -> None:
    assert parse("Let me see: <execute>print(1)</execute>").code == "print(1)"
    assert parse("Let me see: <execute>\nprint(1)\n</execute>").code == "print(1)"
    assert parse("Let me see: <execute> print(1)\nprint(2)").code == "print(1)\nprint(2)"


def test_a_backtick_without_counterpart_on_its_line_hides_nothing() -> None:
    assert parse("A ` here: <execute>x = 1</execute>").code == "x = 1"
    assert parse("A ` here\n<execute>\nx = '`'\n</execute>").code == "x = '`'"


# --- thoughts and solutions


def test_thoughts() -> None:
    reply = parse("<thought>First\nthis.</thought>\n<execute>x = 1</execute>")
    assert (reply.thought, reply.code) == ("First\nthis.", "x = 1")
    reply = parse("<thought>Easy.</thought>\nIt is 4.")
    assert (reply.thought, reply.answer) == ("Easy.", "It is 4.")
    reply = parse("<think>Easy.</think>It is 4.")
    assert (reply.thought, reply.answer) == ("Easy.", "It is 4.")
    reply = parse("Easy.</think>It is 4.")
    assert (reply.thought, reply.answer) == ("Easy.", "It is 4.")
    assert parse("<thought>It is 4.</thought>").answer == "It is 4."


def test_unclosed_thought_hides_nothing() -> None:
    reply = parse("<thought>I add.\n<execute>\nx = 1\n</execute>")
    assert (reply.thought, reply.code) == ("I add.", "x = 1")


def test_unclosed_reasoning_hides_everything() -> None:
    reply = parse("<think>I add <execute>x = 1</execute>")
    assert reply.code is None
    assert reply.answer == "I add <execute>x = 1</execute>"
    assert reply.problem


def test_think_in_the_middle_means_nothing() -> None:
    assert parse("A <think> tag.\n<execute>x = 1</execute>").code == "x = 1"


def test_solution() -> None:
    reply = parse("So:\n<solution>\n42\n</solution> bye")
    assert (reply.answer, reply.thought, reply.code, reply.dropped) == ("42", "So:", None, True)
    assert parse("<solution>42").answer == "42"
    assert parse("<solution>42</solu").answer == "42"
    assert parse("<solution>42").text == "<solution>42\n</solution>"


def test_the_first_block_to_be_complete_wins() -> None:
    both = "<solution>1</solution>\n<execute>x</execute>"
    assert (parse(both).answer, parse(both).dropped) == ("1", True)
    both = "<execute>x</execute>\n<solution>1</solution>"
    assert (parse(both).code, parse(both).dropped) == ("x", True)
    assert parse("<solution>\n<execute>\nx\n</execute>\n</solution>").code == "x"
    assert parse("<solution>use <execute>x</execute></solution>").answer == "use <execute>x</execute>"


# --- several blocks, invention, the end


def test_the_first_block_runs_and_the_rest_is_dropped() -> None:
    reply = parse("<execute>x = 1</execute>\n\n<execute>y = 2</execute>")
    assert (reply.code, reply.dropped, reply.text) == ("x = 1", True, "<execute>x = 1</execute>")


@pytest.mark.parametrize(
    "rest",
    ["", "\n\n", "<|im_end|>", "</s>", "\n<|eot_id|>\n<|im_start|>user", "<|im_", "```\n", "</execute>", STOP, "<"],
)
def test_nothing_is_dropped(rest: str) -> None:
    assert not parse("<execute>x = 1</execute>" + rest).dropped


def test_complete_only_behind_the_action() -> None:
    parser = get_format("tags").parser()
    for char in "<execute>x = 1</execute>\n \nE":
        parser.feed(TextDelta(text=char))
        assert not parser.complete
    parser.feed(TextDelta(text="h"))
    assert parser.complete
    assert parser.finish().dropped


def test_complete_at_an_invented_observation() -> None:
    parser = get_format("tags").parser()
    parser.feed(TextDelta(text="<execute>x</execute>" + STOP[:-1]))
    assert not parser.complete
    parser.feed(TextDelta(text=STOP[-1]))
    assert parser.complete
    assert not parser.finish().dropped


def test_invention_behind_text_is_cut() -> None:
    reply = parse("I wait.\nExecution Output:\n5\nIt is 5.\n<execute>bad()</execute>")
    assert (reply.answer, reply.code, reply.text) == ("I wait.", None, "I wait.")
    assert parse("Execution Output:\n5").answer == ""


def test_special_tokens_are_no_part_of_an_answer() -> None:
    assert parse("It is 5.</s>").answer == "It is 5."
    assert parse("It is 5.<|im_end|>\n<|endoftext|>").answer == "It is 5."


@pytest.mark.parametrize("text", ["<execute>\n</execute>", "Now:\n<execute>", "<execute>```python\n```</execute>"])
def test_empty_block(text: str) -> None:
    reply = parse(text)
    assert reply.code == ""
    assert reply.problem
    assert "empty" in reply.problem


def test_empty_reply_is_a_problem() -> None:
    reply = parse(" \n")
    assert (reply.answer, reply.code) == ("", None)
    assert reply.problem


# --- lenient


def test_lenient_takes_a_python_fence() -> None:
    text = "I add:\n```python\nx = 1\n```"
    reply = parse(text + "\nThat sets x.")
    assert (reply.code, reply.thought, reply.text, reply.dropped) == ("x = 1", "I add:", text, True)
    assert parse("```py\nx = 1").code == "x = 1"
    assert parse(text, lenient=False).answer == text
    assert parse("```json\n{}\n```").code is None


@pytest.mark.parametrize(
    "text", ["```python\nold()\n```\n<execute>new()</execute>", "<execute>new()</execute>\n```python\nold()\n```"]
)
def test_tags_win_over_fences_anywhere(text: str) -> None:
    assert parse(text).code == "new()"


def test_a_fence_in_a_thought_is_not_an_action() -> None:
    assert parse("<think>\n```python\nx\n```\n</think>Fine.").answer == "Fine."


# --- what is shown live


def test_live_pieces() -> None:
    text = "I `add` <b>.\n<execute>\n\n```python\nif x:\n    y = '</execute>'\n```\n</execute>\nmore"
    assert live(text, "thought") == "I `add` <b>.\n"
    assert live(text, "code") == "if x:\n    y = '</execute>'"
    assert live("<thought>Hm.</thought>\nSo: <execute>x = 1</execute>\n", "thought") == "Hm.\nSo: "
    assert live("Now: <execute>x = 1</execute>\nmore text behind", "code") == "x = 1"
    assert live("<execute>\n    x = 1\n    y", "code") == "    x = 1\n    y"


def test_partial_tags_are_not_shown() -> None:
    parser = get_format("tags").parser()
    shown = "".join(delta.text for delta in parser.feed(TextDelta(text="So <exec")))
    assert shown == "So "
    assert [d.text for d in parser.feed(TextDelta(text="utive> b"))] == ["<executive> b"]
