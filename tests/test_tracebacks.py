"""Tracebacks of a real kernel, condensed."""

import time
from collections.abc import Iterator

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from codeact.contracts import ErrorOutput
from codeact.tracebacks import error_text


@pytest.fixture(scope="module")
def kernel() -> Iterator[BlockingKernelClient]:
    manager = KernelManager(transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def fail(kernel: BlockingKernelClient, code: str) -> str:
    errors = []

    def hook(message: dict[str, dict[str, object]]) -> None:
        if message["header"]["msg_type"] == "error":
            errors.append(message["content"])

    kernel.execute_interactive(code, output_hook=hook, timeout=30, allow_stdin=False)
    [error] = errors
    return error_text(
        ErrorOutput.model_validate(
            {"name": error["ename"], "message": error["evalue"], "traceback": error["traceback"]}
        )
    )


def test_own_frames_stay_with_their_lines(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "def f(x):\n    return 1/x\n\nf(0)")
    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith("Cell In[") and lines[1].endswith("line 4")
    assert lines[2] == "----> 4 f(0)"
    assert lines[3].endswith("line 2, in f(x)")
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in text


def test_library_frames_are_condensed(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "import json\njson.loads('{x')")
    assert "line 2\n----> 2 json.loads('{x')\n[2 frames left out]\nFile json/decoder.py:" in text
    assert text.splitlines()[-1].startswith("JSONDecodeError: Expecting property name")


def test_a_cause_inside_a_library_is_one_line(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "import pandas as pd\npd.DataFrame({'a': [1]})['zzz']")
    assert text.startswith("KeyError: 'zzz'\nThe above exception was the direct cause")
    assert "----> 2 pd.DataFrame({'a': [1]})['zzz']" in text
    assert "site-packages" not in text and len(text) < 500


def test_chained_errors_of_ones_own_are_both_kept(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "try:\n    1/0\nexcept Exception as e:\n    raise ValueError('bad') from e")
    assert text.count("Traceback (most recent call last):") == 2
    assert "ZeroDivisionError: division by zero\nThe above exception" in text and text.endswith("ValueError: bad")


def test_frames_of_the_kernel_are_dropped(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "input()")
    assert "ipykernel" not in text and text.splitlines()[1].endswith("line 1")
    assert "IPython" not in fail(kernel, "import ast; ast.parse('x = (')")


def test_syntax_errors_show_the_place(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "a = 1\nx = (1\ny = 2")
    assert "line 2" in text and "    x = (1\n        ^\nSyntaxError: '(' was never closed" in text


def test_deep_recursion_is_shortened(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "def r(n): return r(n + 1) if n < 80 else 1/0\nr(0)")
    assert "[74 frames left out]" in text and len(text.splitlines()) < 25
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_system_exit(kernel: BlockingKernelClient) -> None:
    assert fail(kernel, "raise SystemExit(2)") == "SystemExit: 2"


def test_a_message_that_looks_like_a_frame_is_kept(kernel: BlockingKernelClient) -> None:
    text = fail(kernel, "raise ValueError('a\\n   3 foo')")
    assert text.endswith("ValueError: a\n   3 foo")


def test_without_a_traceback_the_line_is_told() -> None:
    assert error_text(ErrorOutput(name="NameError", message="name 'x' is not defined", line=3)) == (
        "NameError: name 'x' is not defined (line 3)"
    )
    assert error_text(ErrorOutput(name="KeyboardInterrupt", message="")) == "KeyboardInterrupt"


def test_the_message_is_added_where_the_traceback_lacks_it() -> None:
    assert error_text(ErrorOutput(name="E", message="m", traceback=("odd",))) == "odd\nE: m"


def test_huge_tracebacks_are_cheap() -> None:
    frame = "Cell In[1], line 1, in f()\n----> 1 f()\n"
    error = ErrorOutput(name="E", message="m" * 10**7, traceback=(frame,) * 100_000 + ("E: " + "m" * 10**7,))
    start = time.process_time()
    text = error_text(error)
    assert time.process_time() - start < 1.5
    assert len(text) < 60_000 and "frames left out" in text
