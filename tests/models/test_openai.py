"""OpenAIModel against a real HTTP server with every bad habit that model servers have."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import traceback
from contextlib import aclosing
from typing import Any

import pytest

from codeact.contracts import (
    Finish,
    Image,
    Message,
    Model,
    ModelChunk,
    ModelRequest,
    Restart,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    UsageReport,
)
from codeact.errors import (
    ContextOverflow,
    ModelError,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    UsageError,
)
from codeact.models.openai import OpenAIModel
from tests.servers import Behaviour, OverflowForm, ScriptedServer, ToolReply

KEY = "sk-very-secret-0123456789"
ASK = ModelRequest(messages=(Message(role="system", text="Be brief."), Message(role="user", text="What is 6 * 7?")))
TEXT = "Let me see.\n<execute>print(6 * 7)</execute>"


def connect(server: ScriptedServer, name: str = "scripted", **options: Any) -> OpenAIModel:
    settings: dict[str, Any] = {"base_url": server.base_url, "api_key": KEY, "backoff": 0.001, "timeout": 5.0}
    return OpenAIModel(name, **{**settings, **options})


async def ask(model: Model, request: ModelRequest = ASK) -> list[ModelChunk]:
    """All chunks of one reply; the model is closed after it."""
    try:
        return [chunk async for chunk in model.stream(request)]
    finally:
        await model.close()


def text_of(chunks: list[ModelChunk]) -> str:
    """What a reader holds at the end, who forgets at each restart."""
    text = ""
    for chunk in chunks:
        if isinstance(chunk, Restart):
            text = ""
        elif isinstance(chunk, TextDelta):
            text += chunk.text
    return text


def restarts_of(chunks: list[ModelChunk]) -> list[str]:
    return [chunk.reason for chunk in chunks if isinstance(chunk, Restart)]


def usage_of(chunks: list[ModelChunk]) -> UsageReport:
    [report] = [chunk for chunk in chunks if isinstance(chunk, UsageReport)]
    return report


async def test_streams_text_usage_and_finish() -> None:
    with ScriptedServer([TEXT], cached_tokens=3) as server:
        chunks = await ask(connect(server))
    assert text_of(chunks) == TEXT
    assert len(chunks) > 8
    assert restarts_of(chunks) == []
    report = usage_of(chunks)
    assert (report.usage.prompt_tokens, report.usage.cached_tokens, report.usage.estimated) == (7, 3, False)
    assert report.usage.completion_tokens > 5
    assert report.model == "scripted-1"
    assert chunks[-1] == Finish(reason="stop")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.requests[0]["messages"][1] == {"role": "user", "content": "What is 6 * 7?"}
    assert "max_tokens" not in server.requests[0]
    assert "stop" not in server.requests[0]


@pytest.mark.parametrize("pieces", ["tokens", "whole", "characters"])
async def test_text_does_not_depend_on_how_it_is_cut(pieces: Any) -> None:
    text = "naïve \u2028 日本語 🙂\r\ndata: [DONE]\n\n{}"
    with ScriptedServer([text], pieces=pieces) as server:
        assert text_of(await ask(connect(server))) == text


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        ("strips", "Let me see.\n<execute>print(6 * 7)"),
        ("keeps", "Let me see.\n<execute>print(6 * 7)</execute>"),
        ("ignores", "Let me see.\n<execute>print(6 * 7)</execute> It is 42."),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
async def test_stop_strings_arrive_at_the_server(stops: Any, expected: str, asked: bool) -> None:
    natural = None if asked else "</execute>"
    with ScriptedServer([TEXT + " It is 42."], stops=stops, natural_stop=natural) as server:
        request = ASK.model_copy(update={"stop": ("</execute>",) if asked else ()})
        assert text_of(await ask(connect(server), request)) == expected


@pytest.mark.parametrize("behaviour", ["429", "500", "reset", "truncated", "cut-chunk", "malformed", "error-event"])
async def test_a_failure_is_announced_and_made_good(behaviour: Behaviour) -> None:
    with ScriptedServer([TEXT], [behaviour, "good"]) as server:
        chunks = await ask(connect(server))
    assert text_of(chunks) == TEXT
    assert len(restarts_of(chunks)) == 1
    assert len(server.requests) == 2
    assert chunks[-1] == Finish(reason="stop")


@pytest.mark.parametrize("behaviour", ["429", "500", "reset", "truncated", "malformed", "error-event"])
async def test_a_server_that_goes_on_failing_is_unavailable(behaviour: Behaviour) -> None:
    with ScriptedServer([TEXT], behaviour) as server:
        with pytest.raises(ModelUnavailable, match="failed 3 times"):
            await ask(connect(server, max_retries=2))
    assert len(server.requests) == 3


async def test_no_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        model = OpenAIModel("any", base_url=base_url, api_key=KEY, max_retries=1, backoff=0.001)
        with pytest.raises(ModelUnavailable, match="is the model server running"):
            await ask(model)


async def test_retry_after_is_honoured() -> None:
    # With the backoff given, a client that did not read the header would wait for a minute.
    with ScriptedServer([TEXT], ["429", "good"], retry_after="0") as server:
        async with asyncio.timeout(10):
            chunks = await ask(connect(server, backoff=60.0))
    assert text_of(chunks) == TEXT


async def test_used_up_quota_is_not_retried() -> None:
    with ScriptedServer([TEXT], ["quota", "good"]) as server:
        with pytest.raises(ModelRefused, match="quota"):
            await ask(connect(server))
    assert len(server.requests) == 1


async def test_done_without_finish_reason_is_an_end() -> None:
    with ScriptedServer([TEXT], "no-finish") as server:
        chunks = await ask(connect(server))
    assert text_of(chunks) == TEXT
    assert restarts_of(chunks) == []
    assert chunks[-1] == Finish(reason=None)


async def test_finish_without_done_is_an_end_and_usage_is_estimated() -> None:
    with ScriptedServer([TEXT], "no-done") as server:
        chunks = await ask(connect(server))
    assert text_of(chunks) == TEXT
    assert restarts_of(chunks) == []
    usage = usage_of(chunks).usage
    assert usage.estimated
    assert 5 <= usage.prompt_tokens <= 40
    assert 5 <= usage.completion_tokens <= 40


async def test_a_server_that_hangs_after_its_reply_does_not_spoil_it() -> None:
    with ScriptedServer([TEXT], "hangs-after-finish") as server:
        chunks = await ask(connect(server, timeout=0.1))
    assert text_of(chunks) == TEXT
    assert restarts_of(chunks) == []
    assert chunks[-1] == Finish(reason="stop")


async def test_a_server_without_usage_gets_an_estimate() -> None:
    with ScriptedServer([TEXT], usage=False) as server:
        assert usage_of(await ask(connect(server))).usage.estimated


async def test_plain_json_although_streaming_was_asked() -> None:
    with ScriptedServer([TEXT], "json") as server:
        chunks = await ask(connect(server))
    assert text_of(chunks) == TEXT
    assert not usage_of(chunks).usage.estimated
    assert chunks[-1] == Finish(reason="stop")


@pytest.mark.parametrize("behaviour", ["good", "json"])
async def test_tool_calls(behaviour: Behaviour) -> None:
    arguments = '{"code": "print(6 * 7)"}'
    tools = ({"type": "function", "function": {"name": "execute", "parameters": {"type": "object"}}},)
    with ScriptedServer([ToolReply("execute", arguments, text="Let me see.")], behaviour) as server:
        chunks = await ask(connect(server), ASK.model_copy(update={"tools": tools}))
    calls = [chunk for chunk in chunks if isinstance(chunk, ToolCallDelta)]
    assert (calls[0].index, calls[0].id, calls[0].name) == (0, "call_1", "execute")
    assert "".join(call.arguments for call in calls) == arguments
    assert text_of(chunks) == "Let me see."
    assert chunks[-1] == Finish(reason="tool_calls")
    assert server.requests[0]["tools"] == list(tools)


async def test_a_conversation_with_a_tool_call_is_sent_in_the_protocol() -> None:
    picture = Image(mime="image/png", data="aGk=")
    request = ModelRequest(
        messages=(
            Message(role="user", text="Draw.", images=(picture,)),
            Message(role="assistant", text="", tool_call=ToolCall(id="c1", name="execute", arguments="{broken")),
            Message(role="tool", text="done", tool_call_id="c1", images=(picture,)),
        )
    )
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    with ScriptedServer(["ok", "ok"]) as server:
        await ask(connect(server, accepts_images=True), request)
        await ask(connect(server), request)
    seen, blind = (sent["messages"] for sent in server.requests)
    assert seen[0]["content"] == [{"type": "text", "text": "Draw."}, part]
    call = {"name": "execute", "arguments": '{"invalid": "{broken"}'}
    assert seen[1]["tool_calls"] == [{"id": "c1", "type": "function", "function": call}]
    assert seen[2] == {"role": "tool", "content": "done", "tool_call_id": "c1"}
    assert seen[3] == {"role": "user", "content": [part]}
    assert blind[0] == {"role": "user", "content": "Draw."}
    assert len(blind) == 3


@pytest.mark.parametrize("form", ["openai", "llama.cpp", "vllm", "vllm-nested"])
async def test_context_overflow_carries_the_numbers(form: OverflowForm) -> None:
    long = ModelRequest(messages=(Message(role="user", text="word " * 5000),))
    with ScriptedServer([TEXT], context_window=4096, overflow_form=form) as server:
        with pytest.raises(ContextOverflow, match="5000 tokens") as caught:
            await ask(connect(server), long)
    assert (caught.value.prompt_tokens, caught.value.context_window) == (5000, 4096)
    assert len(server.requests) == 1


async def test_a_wrong_key_is_refused_and_shown_nowhere() -> None:
    with ScriptedServer([TEXT], api_key="another") as server:
        model = connect(server)
        with pytest.raises(ModelRefused, match="OPENAI_API_KEY") as caught:
            await ask(model)
    shown = repr(model) + model.description + "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert KEY not in shown
    assert "[key]" in shown


@pytest.mark.parametrize("key", ["ключ", "two\nlines"])
def test_an_impossible_key_is_not_sent(key: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        OpenAIModel("any", api_key=key)
    assert key not in str(caught.value)


async def test_an_unknown_model_is_told_the_known_ones() -> None:
    with ScriptedServer([TEXT], known_models=["qwen2.5", "nomic-embed-text"]) as server:
        with pytest.raises(ModelRefused, match=r"no model 'scripted': choose one of qwen2\.5$"):
            await ask(connect(server))


@pytest.mark.parametrize("behaviour", ["404", "html"])
async def test_a_wrong_base_url_is_refused_with_the_remedy(behaviour: Behaviour) -> None:
    with ScriptedServer([TEXT], behaviour) as server:
        with pytest.raises(ModelRefused, match="/v1"):
            await ask(connect(server, base_url=server.base_url.removesuffix("/v1")))
        with pytest.raises(ModelRefused):
            await ask(connect(server))


async def test_a_bad_request_is_refused_with_the_servers_words() -> None:
    with ScriptedServer([TEXT], "400") as server:
        model = connect(server)
        with pytest.raises(ModelRefused, match="must alternate"):
            await ask(model)
        server.behaviours = ["good"]
        chunks = await ask(model)
    # It was tried without stream_options, but since that did not help, it is not remembered.
    assert [("stream_options" in sent) for sent in server.requests] == [True, False, True]
    assert not usage_of(chunks).usage.estimated


@pytest.mark.parametrize("vaguely", [True, False])
async def test_stream_options_rejected(vaguely: bool) -> None:
    with ScriptedServer([TEXT, TEXT], rejects=["stream_options"], vaguely=vaguely) as server:
        model = connect(server)
        for _ in range(2):
            chunks = await ask(model)
            assert text_of(chunks) == TEXT
            assert restarts_of(chunks) == []
    assert [("stream_options" in sent) for sent in server.requests] == [True, False, False]


async def test_parameters_that_reasoning_models_reject() -> None:
    request = ASK.model_copy(update={"max_tokens": 100, "temperature": 0.0, "stop": ("</execute>",)})
    with ScriptedServer([TEXT, TEXT], rejects=["max_tokens", "temperature", "stop"]) as server:
        model = connect(server)
        assert text_of(await ask(model, request)) == TEXT
        assert text_of(await ask(model, request)) == TEXT
    assert len(server.requests) == 5
    assert server.requests[0]["temperature"] == 0.0
    last = server.requests[-1]
    assert last["max_completion_tokens"] == 100
    assert not {"max_tokens", "temperature", "stop"} & last.keys()
    assert "stream_options" in last


@pytest.mark.parametrize("behaviour", ["silent", "stalls", "pings"])
async def test_silence_is_tried_twice_and_then_a_timeout(behaviour: Behaviour) -> None:
    chunks: list[ModelChunk] = []
    with ScriptedServer([TEXT], behaviour) as server:
        model = connect(server, timeout=0.05 if behaviour == "pings" else 0.25)
        with pytest.raises(ModelTimeout, match="went silent"):
            async for chunk in model.stream(ASK):
                chunks.append(chunk)
        await model.close()
    assert len(restarts_of(chunks)) == 1
    assert len(server.requests) == 2


async def test_silence_once_is_made_good() -> None:
    with ScriptedServer([TEXT], ["stalls", "good"]) as server:
        assert text_of(await ask(connect(server, timeout=0.5))) == TEXT


async def test_closing_the_iterator_stops_the_server() -> None:
    with ScriptedServer([TEXT], "endless") as server:
        model = connect(server)
        text = ""
        async with aclosing(model.stream(ASK)) as chunks:
            async for chunk in chunks:
                text += chunk.text if isinstance(chunk, TextDelta) else ""
                if TEXT in text:
                    break
        assert await asyncio.to_thread(server.disconnected.wait, 5)
        await model.close()


async def test_cancelling_the_task_stops_the_server() -> None:
    with ScriptedServer([TEXT], "stalls") as server:
        model = connect(server, timeout=30.0)
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in model.stream(ASK):
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.disconnected.wait, 5)
        await model.close()


@pytest.mark.parametrize("behaviour", ["endless", "endless-reasoning"])
async def test_an_endless_reply_ends_at_the_bound(behaviour: Behaviour) -> None:
    with ScriptedServer([TEXT], behaviour) as server:
        chunks = await ask(connect(server, max_reply_chars=2000))
        assert await asyncio.to_thread(server.disconnected.wait, 5)
    assert chunks[-1] == Finish(reason="length")
    assert len(text_of(chunks)) < 2100
    assert usage_of(chunks).usage.estimated
    if behaviour == "endless-reasoning":
        assert text_of(chunks) == TEXT


async def test_connections_are_reused() -> None:
    with ScriptedServer([TEXT, TEXT]) as server:
        model = connect(server)
        for _ in range(2):
            assert text_of([chunk async for chunk in model.stream(ASK)]) == TEXT
        await model.close()
        assert server.connections == 1


def test_one_model_in_two_event_loops() -> None:
    with ScriptedServer([TEXT, TEXT]) as server:
        model = connect(server)
        for _ in range(2):
            assert text_of(asyncio.run(ask(model))) == TEXT


async def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with ScriptedServer([TEXT]) as server:
        assert text_of(await ask(connect(server, max_retries=0))) == TEXT


async def test_discover_reads_the_window_of_llama_cpp_and_vllm() -> None:
    with ScriptedServer(props={"default_generation_settings": {"n_ctx": 2048}}) as server:
        assert await connect(server).discover() == 2048
    with ScriptedServer(model_fields={"max_model_len": 16384, "owned_by": "vllm"}) as server:
        model = connect(server)
        assert await model.discover() == model.context_window == 16384
        assert model.description == f"scripted at {server.base_url} (vLLM)"
    with ScriptedServer() as server:
        assert await connect(server).discover() is None
        assert await connect(server, context_window=99).discover() == 99


async def test_discover_reads_the_window_of_ollama() -> None:
    running = {"models": [{"name": "scripted:latest", "context_length": 16000}]}
    shown = {"parameters": "temperature 0.7\nnum_ctx 8192", "model_info": {"llama.context_length": 131072}}
    answers: list[tuple[dict[str, Any], int | None]] = [
        ({"/api/ps": running, "/api/show": shown}, 16000),
        ({"/api/ps": {"models": []}, "/api/show": shown}, 8192),
        ({"/api/show": {"model_info": {"llama.context_length": 131072}}}, 4096),
        ({"/api/show": {"model_info": {"llama.context_length": 2048}}}, 2048),
        ({"/api/ps": {"models": "no"}, "/api/show": []}, None),
    ]
    for told, window in answers:
        with ScriptedServer(model_fields={"owned_by": "library"}) as server:
            server.answers |= told
            assert await connect(server).discover() == window
            assert await connect(server, context_window=99).discover() == 99


async def test_the_window_of_the_card_holds_until_the_server_tells() -> None:
    def window(name: str, **options: Any) -> int | None:
        return OpenAIModel(name, base_url="http://127.0.0.1:1/v1", api_key=KEY, **options).context_window

    assert window("gpt-4o-mini") == 128_000 and window("openai/gpt-4.1") == 1_047_576
    assert window("meta-llama/Llama-3.1-8B-Instruct") == 131_072 and window("CodeActAgent-Llama-7b") == 4096
    assert window("replay of gpt-4o") is None and window("my-model") is None
    assert window("gpt-4o", context_window=1000) == 1000
    with ScriptedServer(model_fields={"max_model_len": 2000}, known_models=["gpt-4o"]) as server:
        assert await connect(server, name="gpt-4o").discover() == 2000
    with ScriptedServer(known_models=["gpt-4o"]) as server:
        assert await connect(server, name="gpt-4o").discover() == 128_000


@pytest.mark.parametrize(("kind", "owner"), [("llama.cpp", "llamacpp"), ("vLLM", "vllm")])
async def test_tokens_are_counted_by_the_server(kind: Any, owner: str) -> None:
    with ScriptedServer(tokenizer=kind, model_fields={"owned_by": owner}, api_key=KEY) as server:
        model = connect(server)
        assert await model.count_tokens(["one two"]) is None and server.tokenized == [], "what it is is not known yet"
        await model.discover()
        assert await model.count_tokens(["one two three", "", "four"]) == [3, 0, 1]
        assert all("model" in body for body in server.tokenized) == (kind == "vLLM")
        await model.close()
    with ScriptedServer(model_fields={"owned_by": owner}) as server:
        model = connect(server)
        await model.discover()
        assert await model.count_tokens(["one"]) is None and len(server.tokenized) == 2
        assert await model.count_tokens(["one"]) is None and len(server.tokenized) == 2, "it is not asked again"
        await model.close()


def test_images_are_judged_by_name_unless_told() -> None:
    def sees(name: str, **options: Any) -> bool:
        return OpenAIModel(name, base_url="http://127.0.0.1:1/v1", api_key=KEY, **options).accepts_images

    assert sees("gpt-4o-mini") and sees("openai/gpt-4.1") and sees("Qwen/Qwen2.5-VL-7B-Instruct")
    assert not sees("qwen2.5-coder")
    assert sees("qwen2.5-coder", accepts_images=True)
    assert not sees("gpt-4o", accepts_images=False)


def test_it_is_a_model_and_its_place_hides_a_password() -> None:
    model = OpenAIModel("m", base_url="http://user:pass@host:1/v1", api_key=KEY)
    assert isinstance(model, Model)
    assert model.description == "m at http://host:1/v1"
    assert "pass" not in repr(model)
    with pytest.raises(UsageError, match="base URL"):
        OpenAIModel("m", base_url="localhost:8000", api_key=KEY)


async def test_whatever_a_server_sends_is_a_model_error() -> None:
    """Raw nonsense in place of a response, one connection each."""
    nonsense = [
        b"",
        b"\x00\xff" * 100,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: []\n\n",
        b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": 5}\n\ndata: [DONE]\n\n',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{",
        b'HTTP/1.1 500 X\r\nContent-Length: 4\r\nRetry-After: tomorrow\r\n\r\n"\\u0',
        b"HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\nerror: {"code": 500, "message": "\x1b[31mred"}\n\n',
    ]
    for answer in nonsense:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            model = OpenAIModel(
                "m", base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=1, backoff=0.001, timeout=2
            )
            with pytest.raises(ModelError) as caught:
                await ask(model)
            assert str(caught.value).isprintable(), answer


@pytest.mark.parametrize("payload", [b'{"choices": []}', b'{"choices": [{"delta": {}}]}'])
@pytest.mark.parametrize("finished", [True, False])
async def test_events_without_a_word_end_at_the_bound(payload: bytes, finished: bool) -> None:
    start = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n' if finished else b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + start)
        try:
            while True:
                writer.write(b"data: " + payload + b"\n\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        chunks = await ask(OpenAIModel("m", base_url=base_url, api_key=KEY, max_reply_chars=500))
    assert text_of(chunks) == ("Hi" if finished else "")
    assert chunks[-1] == Finish(reason="stop" if finished else "length")


async def test_garbage_after_the_end_does_not_spoil_the_reply() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        good = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + good + b"data: {oops\n\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        chunks = await ask(OpenAIModel("m", base_url=base_url, api_key=KEY))
    assert (text_of(chunks), restarts_of(chunks)) == ("Hi", [])


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, codeact.models, codeact.models.openai, codeact.models.llamacpp, codeact.models.replay\n"
        "print([m for m in ('openai', 'httpx', 'httpx2', 'xllamacpp', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stderr
