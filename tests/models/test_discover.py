"""Finding model servers at ports of this machine."""

from __future__ import annotations

import asyncio
import socket
import time

from codeact.models.discover import LocalServer, find_local_servers, get_json, is_loopback
from tests.servers import ScriptedServer


async def test_servers_are_told_from_everything_else() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>hello</html>")
        await writer.drain()
        writer.close()

    with (
        ScriptedServer(known_models=["nomic-embed-text", "qwen2.5", "phi4"]) as one,
        ScriptedServer(known_models=[], model_fields={"owned_by": "vllm"}) as empty,
        ScriptedServer(model_fields={"owned_by": "llamacpp"}) as other,
        socket.socket() as unused,
        socket.socket() as mute,
    ):
        unused.bind(("127.0.0.1", 0))
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with (
            await asyncio.start_server(banner, "127.0.0.1", 0) as mail,
            await asyncio.start_server(page, "127.0.0.1", 0) as web,
        ):
            ports = {
                "Ollama": one.port,
                "mail": mail.sockets[0].getsockname()[1],
                "web": web.sockets[0].getsockname()[1],
                "none": unused.getsockname()[1],
                "mute": mute.getsockname()[1],
                "vLLM": empty.port,
                "LM Studio": other.port,
            }
            begun = time.monotonic()
            found = await find_local_servers(2.0, ports=ports)
            assert time.monotonic() - begun < 10
    assert found == [
        LocalServer("Ollama", one.base_url, ("qwen2.5", "phi4")),
        LocalServer("vLLM", empty.base_url, ()),
        LocalServer("llama.cpp", other.base_url, ("scripted",)),
    ]


async def test_an_endless_answer_is_given_up() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n[")
        try:
            while True:
                writer.write(b"1," * 30_000)
                await writer.drain()
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await get_json(f"http://127.0.0.1:{port}/", timeout=10) is None


def test_loopback() -> None:
    assert is_loopback("http://localhost:1/v1") and is_loopback("http://127.0.0.9/") and is_loopback("http://[::1]:2/")
    assert not is_loopback("http://127.example.com/") and not is_loopback("https://api.openai.com/v1")
