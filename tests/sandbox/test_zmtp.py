"""The host's end of a ZeroMQ connection, against libzmq and against bytes of any kind."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeact.sandbox.zmtp import LARGEST_MESSAGE, MOST_FRAMES, Connection
from tests.sandbox.processes import until

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x06\x05READY"


class Peer:
    """A connection, and everything that it has read."""

    def __init__(self, path: Path, kind: Any = "DEALER") -> None:
        self.connection = Connection(str(path), kind, b"me", lambda: None)
        self.messages: list[list[bytes]] = []

    def has(self, count: int) -> bool:
        self.messages += self.connection.read()
        return len(self.messages) >= count

    def has_failed(self) -> bool:
        return not self.has(1 << 30) and self.connection.fault is not None


@pytest_asyncio.fixture
async def context() -> AsyncIterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


async def test_talk_with_libzmq(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    peer = Peer(tmp_path / "socket")  # nobody listens yet
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/socket")
    sent = [[b""], [b"a", b"", b"x" * 255, b"y" * 256], [os.urandom(3 << 20)]]
    for message in sent:
        peer.connection.send(message)
    await until(lambda: peer.has(0) and router.poll(10), "the first message comes")
    for message in sent:
        while not router.poll(0):
            peer.has(0)
            await asyncio.sleep(0.001)
        assert router.recv_multipart() == [b"me", *message]
        router.send_multipart([b"me", *message])
    await until(lambda: peer.has(3), "they come back")
    assert peer.messages == sent and peer.connection.fault is None
    router.close(linger=0)
    await until(peer.has_failed, "the end is noticed")
    assert peer.connection.fault == "it closed its connection"
    peer.connection.close()


async def test_subscription_and_messages_that_are_too_large(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    publisher = context.socket(zmq.XPUB)
    publisher.bind(f"ipc://{tmp_path}/socket")
    peer = Peer(tmp_path / "socket", "SUB")
    await until(lambda: peer.has(0) and publisher.poll(0), "the subscription comes")
    assert publisher.recv() == b"\x01"
    half = bytes(LARGEST_MESSAGE // 2)
    publisher.send_multipart([b"first"])
    for large in ([half, half, b"x"], [b"x", half + half], [b""] * (MOST_FRAMES + 1), [b"x"] * 100_000):
        publisher.send_multipart(large)
    publisher.send_multipart([b""] * MOST_FRAMES)
    publisher.send_multipart([half, half])
    async with asyncio.timeout(30):
        while not peer.has(3):  # noqa: ASYNC110  # thousands of pieces, which nothing announces here
            await asyncio.sleep(0)
    assert [len(message) for message in peer.messages] == [1, MOST_FRAMES, 2]
    assert peer.connection.passed_over == 4 and peer.connection.fault is None
    peer.connection.close()
    publisher.close(linger=0)


async def test_who_takes_nothing_is_given_up(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    peer = Peer(tmp_path / "socket")
    other, _ = listener.accept()
    with listener, other:
        other.sendall(GREETING + READY)
        await until(lambda: peer.has(0), "it is greeted")
        for _ in range(5):
            peer.connection.send([bytes(30 << 20)])
        assert peer.connection.fault == "it takes no messages"
        peer.connection.close()


def spoken(tmp_path: Path, pieces: list[bytes]) -> tuple[list[list[bytes]], str | None]:
    """What is made of these bytes, piece by piece."""

    async def run() -> tuple[list[list[bytes]], str | None]:
        path = tmp_path / "spoken"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            peer = Peer(path)
            other, _ = listener.accept()
            with other:
                for piece in pieces:
                    other.sendall(piece)
                    peer.has(0)
            path.unlink()
            peer.connection.close()
            fault = peer.connection.fault
            return peer.messages, None if fault == "it was closed" else fault

    return asyncio.run(run())


frames = st.lists(st.binary(max_size=300), min_size=1, max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(sent=st.lists(frames, max_size=5), cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_messages_do_not_depend_on_how_they_are_cut(tmp_path: Path, sent: list[list[bytes]], cuts: list[int]) -> None:
    data = GREETING + READY
    for message in sent:
        for number, frame in enumerate(message, 1):
            more = number < len(message)
            data += bytes((more | 2,)) + len(frame).to_bytes(8) + frame
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    assert spoken(tmp_path, pieces) == (sent, None)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(greeted=st.booleans(), data=st.binary(max_size=500))
def test_any_bytes_do_no_harm(tmp_path: Path, greeted: bool, data: bytes) -> None:
    messages, fault = spoken(tmp_path, [GREETING + READY if greeted else b"", data] if data else [GREETING])
    assert fault is None or fault.startswith("it ")
    assert greeted or not messages


@pytest.mark.parametrize(
    "data",
    [b"\x08\x00", b"\xff" * 9, b"\x05\x00", b"\x06" + (1 << 20).to_bytes(8), b"\x02" + (1 << 60).to_bytes(8)],
)
def test_what_is_no_frame_is_a_fault(tmp_path: Path, data: bytes) -> None:
    assert spoken(tmp_path, [GREETING + READY + data]) == ([], "it sends what is no frame of ZMTP")
    assert spoken(tmp_path, [data * 64]) == ([], "it does not speak ZMTP 3")
