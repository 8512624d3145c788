"""Server-sent events, cut anywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.models import wire
from codeact.models.wire import BrokenStream, Completion, NotTheProtocol, payloads


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(*chunks: bytes) -> list[str]:
    return [payload async for payload in payloads(body(*chunks))]


@given(
    st.lists(st.text().map(lambda text: json.dumps({"text": text}, ensure_ascii=False)), max_size=5),
    st.sampled_from(["\n\n", "\r\n\r\n"]),
    st.integers(1, 7),
)
async def test_events_survive_any_cut(events: list[str], end: str, width: int) -> None:
    sent = "".join(f": note{end}data: {event}{end}" for event in events).encode()
    assert await read(*(sent[i : i + width] for i in range(0, len(sent), width))) == events


async def test_neighbouring_forms() -> None:
    assert await read(b"data:1\n\ndata: 2") == ["1", "2"]
    assert await read(b"event: x\nid: 1\ndata: a\ndata: b\n\n") == ["a\nb"]
    assert await read(b'error: {"code": 500}\n\n') == ['{"error":{"code": 500}}']
    assert json.loads((await read(b'{\n "choices": []\n', b"}"))[0]) == {"choices": []}
    assert await read(b"") == []
    with pytest.raises(NotTheProtocol):
        await read(b"<html>")


@pytest.mark.parametrize("start", [b"", b"{\n", b"data: "])
@pytest.mark.parametrize("filler", [b"x" * 65536, b"\ndata: " + b"x" * 65536])
async def test_nothing_grows_without_bound(start: bytes, filler: bytes) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield start
        while True:
            yield filler

    with pytest.raises(BrokenStream):
        async for _ in payloads(endless()):
            pass


def test_lenient_shapes() -> None:
    parts = {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"text": "b"}]}}]}
    [choice] = Completion.model_validate(parts).choices or []
    assert choice.piece.text == "ab"
    call = {"function": {"name": "execute", "arguments": {"code": "1"}}}
    [choice] = Completion.model_validate({"choices": [{"message": {"tool_calls": [call]}}]}).choices or []
    [piece] = choice.piece.tool_calls or []
    assert (piece.name, json.loads(piece.arguments)) == ("execute", {"code": "1"})
    assert wire.Delta(reasoning_content="abc").hidden == 3
    assert wire.Delta(reasoning_content="abc").text == ""
