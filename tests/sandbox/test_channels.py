"""Messages from a kernel that may be hostile: whatever comes, the host gets an output or nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jupyter_client.session import Session as Protocol

from codeact.contracts import DisplayOutput, ErrorOutput, StreamOutput, Variable
from codeact.sandbox.channels import Channels, error_output, output_of, variables_of

KEY = b"0123456789abcdef"
OUTPUTS = (StreamOutput, DisplayOutput, ErrorOutput)

text = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 1e308])
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
kinds = st.sampled_from(["stream", "execute_result", "display_data", "update_display_data", "error", "status"]) | values
fields = st.sampled_from(["name", "text", "data", "ename", "evalue", "traceback", "metadata", "execution_state"]) | text
contents = st.dictionaries(fields, values | st.sampled_from(["stdout", "stderr"]), max_size=6)
headers = st.fixed_dictionaries(
    {"msg_type": kinds}, optional={"msg_id": values, "date": values, "version": values | st.just("5.4")}
)


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channels]:
    loop, folder = asyncio.new_event_loop(), tmp_path_factory.mktemp("channels")

    async def make() -> Channels:
        names = ("shell", "iopub", "stdin", "control")
        return Channels({name: f"ipc://{folder}/{name}" for name in names}, KEY)

    made = loop.run_until_complete(make())
    yield made

    async def close() -> None:
        made.close()

    loop.run_until_complete(close())
    loop.close()


def signed(*parts: Any, key: bytes = KEY) -> list[bytes]:
    """Frames as a kernel that knows the key can make them, of any JSON at all."""
    frames = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    return [b"identity", b"<IDS|MSG>", Protocol(key=key).sign(frames), *frames]


def check(message: dict[str, Any] | None) -> None:
    if message is None:
        return
    assert isinstance(message["content"], dict)
    assert isinstance(message["header"], dict)
    assert isinstance(message["parent_header"], dict)
    output = output_of(message)
    assert output is None or isinstance(output, OUTPUTS)
    if output is not None:
        output.model_dump_json()  # can be kept and sent on


@given(frames=st.lists(st.binary(max_size=60) | st.just(b"<IDS|MSG>"), max_size=8))
def test_any_bytes(channels: Channels, frames: list[bytes]) -> None:
    check(channels.read(frames))


@given(parts=st.lists(values | st.binary(max_size=30), min_size=3, max_size=6))
def test_any_signed_parts(channels: Channels, parts: list[Any]) -> None:
    check(channels.read(signed(*parts)))


@given(header=headers | values, parent=headers | values, content=contents | values)
@example(
    header={"msg_type": "stream", "msg_id": "1", "version": "5.4"},
    parent={},
    content={"name": "stdout", "text": "\ud800"},
)
@example(
    header={"msg_type": "stream", "msg_id": "2", "version": "5.4"}, parent={}, content={"name": ["stdout"], "text": 1}
)
@example(
    header={"msg_type": "error", "msg_id": "3", "version": "5.4"},
    parent={},
    content={"traceback": ["Cell In[1], line " + "9" * 5000]},
)
@example(
    header={"msg_type": "error", "msg_id": "4", "version": "5.4"},
    parent={},
    content={"ename": "\udfff", "evalue": {}, "traceback": [1]},
)
@example(
    header={"msg_type": "display_data", "msg_id": "5", "version": "5.4"},
    parent={},
    content={"data": {"\ud800": "\udc00", "a": [1]}},
)
@example(header={"msg_type": "stream", "msg_id": "6", "version": "5.4", "date": "9" * 400}, parent=[], content={})
@example(header=[], parent={}, content={})
def test_any_well_signed_message(channels: Channels, header: Any, parent: Any, content: Any) -> None:
    check(channels.read(signed(header, parent, {}, content)))


@given(header=headers, content=contents)
def test_output_of_any_message(header: dict[str, Any], content: dict[str, Any]) -> None:
    check({"header": header, "parent_header": {}, "content": content})


def test_deep_nesting_is_dropped(channels: Channels) -> None:
    deep = b'{"data":' * 50_000 + b"1" + b"}" * 50_000
    header = {"msg_type": "display_data", "msg_id": "deep", "version": "5.4"}
    assert channels.read(signed(header, {}, {}, deep)) is None


def test_forged_signature_is_dropped_and_a_true_one_is_not(channels: Channels) -> None:
    header = {"msg_type": "stream", "msg_id": "s", "version": "5.4"}
    content = {"name": "stdout", "text": "x"}
    assert channels.read(signed(header, {}, {}, content, key=b"another key")) is None
    frames = signed(header, {}, {}, content)
    message = channels.read(frames)
    assert message is not None and output_of(message) == StreamOutput(name="stdout", text="x")
    assert channels.read(frames) is None, "the same message twice"
    assert channels.read([*frames[:-1], frames[-1].replace(b"x", b"y")]) is None


@given(listed=values | st.lists(st.fixed_dictionaries({"name": values, "type": values, "shape": values})))
def test_variables_of_anything(listed: Any) -> None:
    assert all(isinstance(variable, Variable) for variable in variables_of(listed))


@given(name=values, message=values, traceback=values)
def test_error_of_anything(name: Any, message: Any, traceback: Any) -> None:
    error_output(name, message, traceback).model_dump_json()


def test_line_of_the_innermost_cell() -> None:
    lines = ["\x1b[31mZeroDivisionError\x1b[0m", "\x1b[36mCell\x1b[39m\x1b[36m In[3], line 12\x1b[39m", "text"]
    assert error_output("E", "m", lines).line == 12
