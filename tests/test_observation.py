import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeact.contracts import (
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    Output,
    StateChanges,
    StreamOutput,
    Variable,
)
from codeact.observation import LIMITS, OVERHEAD, Style, render, upstream_result_text
from tests.test_raster import picture


def out(text: str) -> StreamOutput:
    return StreamOutput(name="stdout", text=text)


def err(text: str) -> StreamOutput:
    return StreamOutput(name="stderr", text=text)


def shown(*outputs: Output, **fields: Any) -> str:
    return render(ExecutionResult(status=fields.pop("status", "ok"), outputs=outputs, **fields)).text


texts = st.text(max_size=300)
outputs = st.lists(
    st.one_of(
        st.builds(StreamOutput, name=st.sampled_from(["stdout", "stderr"]), text=texts),
        st.builds(
            DisplayOutput,
            data=st.dictionaries(st.sampled_from(["text/plain", "text/html", "image/png", "x/y"]), texts),
            is_result=st.booleans(),
        ),
        st.builds(ErrorOutput, name=texts, message=texts, traceback=st.lists(texts, max_size=5).map(tuple)),
    ),
    max_size=8,
).map(tuple)
variables = st.lists(
    st.builds(Variable, name=texts, type=texts, shape=st.none() | st.lists(st.integers(0), max_size=40).map(tuple)),
    max_size=15,
).map(tuple)
results = st.builds(
    ExecutionResult,
    status=st.sampled_from(["ok", "error", "timeout", "interrupted", "died"]),
    outputs=outputs,
    notice=st.none() | texts.map(lambda text: text * 20),
    changes=st.none()
    | st.builds(StateChanges, added=variables, changed=variables, removed=st.lists(texts, max_size=15).map(tuple)),
    dropped=st.integers(0, 10**12),
    full_output=st.none() | texts,
)


@given(results, st.integers(0, 500), st.sampled_from(get_args(Style)))
@settings(max_examples=200)
def test_always_bounded_and_never_empty(result: ExecutionResult, limit: int, style: Style) -> None:
    text = render(result, limit=limit, style=style).text
    assert 0 < len(text) <= limit + OVERHEAD
    text.encode()
    assert not any(c < " " and c not in "\n\t\r\b" for c in text)


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=200))
def test_short_plain_text_is_left_as_it_is(text: str) -> None:
    once = shown(out(text))
    assert once == (text if text.strip() else "[The code ran and printed nothing.]")
    assert shown(out(once)) == once


def test_outputs_keep_their_order_and_their_own_lines() -> None:
    result = DisplayOutput(data={"text/plain": "42"}, is_result=True)
    assert shown(out("a"), err("warn"), out("b\n"), out("c"), result) == "a\nwarn\nb\nc\n42"


def test_progress_bar_sent_in_pieces_ends_in_one_line() -> None:
    bar = [err(f"\r{n:3}%|{'#' * (n // 10):10}|") for n in range(0, 101, 5)]
    assert shown(out("start\n"), *bar, err("\n")) == "start\n100%|##########|"


def test_long_output_is_cut_head_and_tail_and_says_where_the_whole_is() -> None:
    lines = "".join(f"row {n}\n" for n in range(5000))
    observation = render(ExecutionResult(status="ok", outputs=(out(lines),), dropped=1000, full_output="out-3.txt"))
    head, marker, tail = observation.text.partition("[… ")
    assert head.startswith("row 0\n") and head.endswith("\n") and tail.endswith("row 4999")
    shown_rows = len(head) + len(tail.partition("]\n")[2]) + 1
    assert f"{len(lines) - shown_rows + 1000:,} characters left out" in marker + tail
    assert "out-3.txt" in tail
    assert observation.full_text == lines.rstrip("\n")
    assert len(observation.text) < LIMITS["codeact"] + 200


def test_output_dropped_by_the_kernel_is_told_even_when_the_rest_fits() -> None:
    text = shown(out("begin"), dropped=12345, full_output="whole.txt")
    assert text.startswith("begin\n[12,345 more characters") and "whole.txt" in text


def test_error_after_much_output_is_still_read() -> None:
    error = ErrorOutput(name="ValueError", message="late", traceback=("ValueError: late",))
    assert shown(out("x\n" * 100_000), error, status="error").endswith("ValueError: late")


@pytest.mark.parametrize("text", ["x" * 40_000_000, "\x1b[31mab\x1b[0m\r\n" * 3_000_000])
def test_huge_output_is_cheap(text: str) -> None:
    result = ExecutionResult(status="ok", outputs=(out(text),))
    start = time.process_time()
    observed = render(result)
    assert time.process_time() - start < 1.0
    assert len(observed.text) < 5000 and len(observed.full_text or "") < 600_000


def test_many_small_outputs_are_cheap_and_counted() -> None:
    many = tuple(DisplayOutput(data={"text/plain": f"item {n} " + "x" * 100}) for n in range(50_000))
    start = time.process_time()
    text = render(ExecutionResult(status="ok", outputs=many)).text
    assert time.process_time() - start < 2.0
    assert text.startswith("item 0 ") and "item 49999" in text
    left_out = int(text.partition("[… ")[2].partition(" ")[0].replace(",", ""))
    assert left_out == pytest.approx(sum(len(o.text) for o in many) - 4000, rel=0.02)


def test_nothing_printed_is_said_with_what_changed() -> None:
    changes = StateChanges(
        added=(
            Variable(name="df", type="DataFrame", shape=(406, 9)),
            Variable(name="n", type="int"),
            Variable(name="xs", type="list", length=3),
        ),
        changed=(Variable(name="y", type="float"),),
        removed=("z",),
    )
    assert shown(changes=changes) == (
        "[The code ran and printed nothing.]\n"
        "[New: df (DataFrame 406×9), n (int), xs (list, length 3); changed: y (float); removed: z]"
    )
    many = StateChanges(added=tuple(Variable(name=f"v{n}", type="int") for n in range(30)))
    assert "v9 (int) and 20 more" in shown(changes=many)
    assert shown() == "[The code ran and printed nothing.]"


def test_endings_are_told() -> None:
    assert "stopped at its time limit" in shown(out("so far"), status="timeout")
    assert shown(out("so far"), status="timeout").startswith("so far\n")
    assert shown(status="timeout", notice="Stopped after 60 s.") == "[Timed out: Stopped after 60 s.]"
    assert shown(status="interrupted").startswith("[Interrupted: ")
    assert "variables are lost" in shown(status="died")
    assert shown(out("hi"), notice="Cut to 1 MB.") == "hi\n[Cut to 1 MB.]"
    assert "new kernel" in shown(out("hi"), fresh_kernel=True)


def test_displays() -> None:
    png = picture("png", 640, 480)
    figure = DisplayOutput(data={"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": png.data})
    observed = render(ExecutionResult(status="ok", outputs=(out("a\n"), figure, figure)))
    assert observed.text == (
        "a\n[Image 1: image/png, 640×480 shown to the user]\n[Image 2: image/png, 640×480 shown to the user]"
    )
    assert observed.images == (png, png)
    assert len(render(ExecutionResult(status="ok", outputs=(figure,) * 30)).images) == 8
    table = DisplayOutput(data={"text/plain": "   a\n0  1", "text/html": "<table></table>"})
    assert shown(table) == "   a\n0  1"
    assert shown(DisplayOutput(data={"text/html": "<b>x</b>"})) == "[HTML shown to the user]"
    assert shown(DisplayOutput(data={"image/svg+xml": "<svg/>"})) == "[SVG image shown to the user]"
    fake = render(ExecutionResult(status="ok", outputs=(DisplayOutput(data={"image/png": "bm8="}),)))
    assert fake.text == "[image/png that cannot be read]" and fake.images == ()


def test_upstream_style() -> None:
    png = picture("png")
    outputs = (out("\x1b[1ma"), DisplayOutput(data={"text/plain": "<Figure>", "image/png": png.data}), out("b"))
    result = ExecutionResult(status="ok", outputs=outputs)
    assert render(result, style="codeact-upstream").text == ("a<Figure>[An image is already displayed to the user.]b")
    assert upstream_result_text(result) == f"a<Figure>![image](data:image/png;base64,{png.data})b"
    nothing = ExecutionResult(status="ok")
    assert render(nothing, style="codeact-upstream").text == "[Code executed successfully with no output]"
    assert upstream_result_text(nothing) == "[Code executed successfully with no output]"
    late = ExecutionResult(status="timeout", duration=30.02)
    assert render(late, style="codeact-upstream").text == "[Execution timed out (30 seconds).]"
    long = render(ExecutionResult(status="ok", outputs=(out("x" * 9000),)), style="codeact-upstream").text
    assert long.startswith("x" * 2000 + "\n[") and long.endswith("]\n" + "x" * 2000)


def test_mint_style() -> None:
    result = ExecutionResult(status="ok", outputs=(out("4\n"),))
    assert render(result, style="mint", steps_left=3, chances_left=2).text == (
        "Observation:\n4\nYou have 3 steps left and 2 chances to propose solution left."
    )
    long = ExecutionResult(status="ok", outputs=(out("x" * 9000),))
    assert render(long, style="mint").text.count("x") == 2000
