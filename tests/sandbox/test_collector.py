"""What is kept of outputs: bounded whatever comes, head and tail, with an exact count of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.contracts import DisplayOutput, ErrorOutput, Output, StreamOutput
from codeact.sandbox.collector import KEPT_DISPLAYS, KEPT_ERRORS, KEPT_TEXT, WHOLE, Collector

sizes = st.integers(0, 40) | st.integers(KEPT_TEXT // 2 - 2, KEPT_TEXT // 2 + 2) | st.integers(0, 3 * KEPT_TEXT)
streams = st.builds(
    lambda name, size, letter: StreamOutput(name=name, text=letter * size),
    st.sampled_from(["stdout", "stderr"]),
    sizes,
    st.sampled_from("abc"),
)
displays = st.builds(
    lambda size, mime: DisplayOutput(data={mime: "d" * size}),
    st.integers(0, 50) | st.sampled_from([KEPT_DISPLAYS // 3, KEPT_DISPLAYS, KEPT_DISPLAYS + 1]),
    st.sampled_from(["text/plain", "image/png"]),
)
errors = st.builds(
    lambda size, lines: ErrorOutput(name="E" * size, message="m" * size, traceback=("line" * size,) * lines),
    st.sampled_from([0, 1, 100, 100_000]),
    st.integers(0, 20),
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with closing(Collector()) as collector:
        yield collector


def stream_text(outputs: tuple[Output, ...]) -> str:
    return "".join(o.text for o in outputs if isinstance(o, StreamOutput))


@given(st.lists(streams | displays | errors, max_size=12))
def test_bounds_and_counts(added: list[Output]) -> None:
    with closing(Collector()) as collector:
        for output in added:
            collector.add(output)
        kept = collector.outputs
        text = stream_text(kept)
        gap = f"\n… {collector.dropped} characters left out …\n" if collector.dropped else ""
        written = "".join(o.text for o in added if isinstance(o, StreamOutput))
        assert gap in text
        assert len(text) - len(gap) == len(written) - collector.dropped
        assert len(text) - len(gap) <= KEPT_TEXT
        if gap:
            head, _, tail = text.partition(gap)
            assert written.startswith(head) and written.endswith(tail)
            assert len(head) == KEPT_TEXT // 2
        else:
            assert text == written
        shown = sum(len(data) for o in kept if isinstance(o, DisplayOutput) for data in o.data.values())
        assert shown <= KEPT_DISPLAYS
        told = sum(len(o.message) + sum(map(len, o.traceback)) for o in kept if isinstance(o, ErrorOutput))
        assert told <= KEPT_ERRORS
        others = sum(not isinstance(o, StreamOutput) for o in added)
        assert sum(not isinstance(o, StreamOutput) for o in kept) == others - collector.dropped_displays


@given(st.lists(streams | displays, max_size=8))
def test_order_is_kept_where_nothing_is_dropped(added: list[Output]) -> None:
    with closing(Collector()) as collector:
        for output in added:
            collector.add(output)
        if not collector.dropped and not collector.dropped_displays:
            flat = [o for o in collector.outputs if not isinstance(o, StreamOutput)]
            assert flat == [o for o in added if not isinstance(o, StreamOutput)]


def test_many_empty_outputs_are_bounded(collector: Collector) -> None:
    for _ in range(60_000):
        collector.add(DisplayOutput(data={}))
        collector.add(ErrorOutput(name="", message=""))
        collector.add(StreamOutput(name="stdout", text=""))
    assert len(collector.outputs) < (KEPT_DISPLAYS + KEPT_ERRORS) // 400
    assert collector.dropped_displays == 120_000 - len(collector.outputs)


def test_long_error_keeps_its_ends(collector: Collector) -> None:
    message = "begin" + "x" * 5_000_000 + "end"
    collector.add(ErrorOutput(name="E", message=message, traceback=("first", "y" * 5_000_000, "last")))
    (error,) = collector.outputs
    assert isinstance(error, ErrorOutput)
    assert error.message.startswith("begin") and error.message.endswith("end") and error.traceback == ("last",)
    assert "characters left out" in error.message


def test_whole_holds_everything_up_to_its_bound(collector: Collector) -> None:
    piece = "é" * (1 << 20)
    shown = [collector.add(StreamOutput(name="stdout", text=piece)) for _ in range(70)]
    collector.whole.seek(0)
    data = collector.whole.read()
    assert len(data) == WHOLE and data.startswith("é".encode() * 1000)
    assert shown == [True] * 64 + [False] * 6, "a watcher is shown no more than this"
    assert collector.dropped == 70 * len(piece) - KEPT_TEXT


def test_neighbouring_writes_are_joined(collector: Collector) -> None:
    for letter in "abc":
        collector.add(StreamOutput(name="stdout", text=letter))
    collector.add(StreamOutput(name="stderr", text="e"))
    collector.add(StreamOutput(name="stdout", text="d"))
    assert [(o.name, o.text) for o in collector.outputs if isinstance(o, StreamOutput)] == [
        ("stdout", "abc"),
        ("stderr", "e"),
        ("stdout", "d"),
    ]
