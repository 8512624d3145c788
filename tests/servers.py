"""A scripted model server: real HTTP on a loopback port, the OpenAI protocol, and every bad habit that servers have.

    with ScriptedServer(["<execute>print(1)</execute>", "It is 1."], ["429", "good"]) as server:
        model = OpenAIModel("scripted", base_url=server.base_url, backoff=0.001)

Replies are consumed in order by requests that are served well; a request beyond the last one gets a 400 that says so.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeAlias

Request: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ToolReply:
    """A native tool call as the server sends it."""

    name: str
    arguments: str
    text: str = ""
    id: str = "call_1"


Scripted: TypeAlias = str | ToolReply | Callable[[Request], str]

Behaviour: TypeAlias = Literal[
    "good",
    "json",  # answers with plain JSON although asked to stream
    "no-finish",  # ends with [DONE] and no finish_reason
    "no-done",  # ends after finish_reason, without usage and [DONE]
    "hangs-after-finish",  # sends finish_reason, then keeps the connection open and silent
    "endless",  # the reply, then words without end
    "endless-reasoning",  # reasoning without end
    "429",  # with `retry_after`, where given
    "quota",  # a 429 that waiting does not help
    "500",
    "404",
    "400",
    "html",  # a web page
    "reset",  # TCP reset after half of the reply
    "truncated",  # ends after half of the reply as if all were well
    "cut-chunk",  # the connection closes in the middle of an HTTP chunk
    "malformed",  # half of the reply, then a chunk that is not JSON
    "error-event",  # half of the reply, then {"error": …} inside the stream
    "silent",  # accepts the request and never answers
    "stalls",  # half of the reply, then silence
    "pings",  # signs of life and nothing else
]

OverflowForm: TypeAlias = Literal["openai", "llama.cpp", "vllm", "vllm-nested"]


class ScriptedServer:
    """The server. A context manager for sync and async tests alike: it runs in threads of its own.

    ``behaviours``: the n-th completion request meets the n-th one, later ones the last.
    ``stops``: what it does with stop strings, its own ``natural_stop`` included: ``strips`` them from the reply,
    ``keeps`` them, or ``ignores`` them and goes on. ``pieces``: how the text is cut into chunks.
    ``context_window``: a prompt of more tokens is refused in ``overflow_form``; ``tokens`` counts those of a text, by
    default its words. ``tokenizer``: ``/tokenize`` answers as that kind of server does. ``api_key``: any other is
    refused, and echoed. ``rejects``: fields refused with 400, ``vaguely`` without naming them. ``refuses``: a 400 for
    such requests. ``known_models``: others get 404.
    """

    def __init__(
        self,
        replies: Sequence[Scripted] = (),
        behaviours: Behaviour | Sequence[Behaviour] = "good",
        *,
        stops: Literal["strips", "keeps", "ignores"] = "strips",
        natural_stop: str | None = None,
        pieces: Literal["tokens", "whole", "characters"] = "tokens",
        usage: bool = True,
        cached_tokens: int = 0,
        retry_after: str | None = None,
        context_window: int | None = None,
        overflow_form: OverflowForm = "llama.cpp",
        tokens: Callable[[str], int] = lambda text: len(text.split()),
        tokenizer: Literal["llama.cpp", "vLLM"] | None = None,
        api_key: str | None = None,
        rejects: Sequence[str] = (),
        vaguely: bool = False,
        refuses: Callable[[Request], bool] = lambda body: False,
        known_models: Sequence[str] | None = None,
        model_fields: dict[str, Any] | None = None,
        props: dict[str, Any] | None = None,
    ) -> None:
        self.replies = list(replies)
        self.behaviours: list[Behaviour] = [behaviours] if isinstance(behaviours, str) else list(behaviours)
        self.stops = stops
        self.natural_stop = natural_stop
        self.pieces = pieces
        self.usage = usage
        self.cached_tokens = cached_tokens
        self.retry_after = retry_after
        self.context_window = context_window
        self.overflow_form = overflow_form
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.tokenized: list[Request] = []
        """Bodies of the requests to ``/tokenize``."""
        self.overflows = 0
        """Prompts that were refused for their size."""
        self.answers: dict[str, Any] = {}
        """What further paths answer, to GET and POST."""
        self.api_key = api_key
        self.rejects = tuple(rejects)
        self.vaguely = vaguely
        self.refuses = refuses
        self.known_models = known_models
        self.model_fields = model_fields or {}
        self.props = props
        self.requests: list[Request] = []
        """Bodies of the completion requests, in order, the refused ones included."""
        self.headers: list[dict[str, str]] = []
        """Their headers, names in lower case."""
        self.disconnected = threading.Event()
        """Set once a client has closed its connection before the end of a reply."""
        self.served = 0
        self.connections = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http = _HTTPServer(("127.0.0.1", 0), _Handler)
        self._http.script = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self._http.shutdown()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the client was faster
        self._http.server_close()
        self._thread.join(5)

    async def __aenter__(self) -> ScriptedServer:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()

    # --- what the handler asks ------------------------------------------------------------------------------------

    def track(self, connection: socket.socket, *, gone: bool = False) -> None:
        with self._lock:
            self.connections += not gone
            (self._connections.discard if gone else self._connections.add)(connection)

    def record(self, body: Request, headers: dict[str, str]) -> Behaviour:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            return self.behaviours[min(len(self.requests), len(self.behaviours)) - 1]

    def next_reply(self, body: Request, *, consume: bool) -> str | ToolReply | None:
        with self._lock:
            if self.served >= len(self.replies):
                return None
            reply = self.replies[self.served]
            self.served += consume
        return reply(body) if callable(reply) else reply

    def cut(self, text: str, body: Request) -> str:
        """The reply as this server ends it at the first stop string."""
        stop = body.get("stop") or []
        stops = [*([stop] if isinstance(stop, str) else stop), *([self.natural_stop] if self.natural_stop else [])]
        found = [(text.index(s), s) for s in stops if s in text]
        if self.stops == "ignores" or not found:
            return text
        position, first = min(found)
        return text[: position + (len(first) if self.stops == "keeps" else 0)]

    def chunks(self, text: str) -> list[str]:
        if self.pieces == "whole":
            return [text] if text else []
        return list(text) if self.pieces == "characters" else re.findall(r"\s?\w+|\s?[^\w\s]|\s", text)

    def prompt_tokens(self, body: Request) -> int:
        """The prompt's size as this server counts it: its texts, calls of tools included."""
        texts = [str(m.get("content") or "") for m in body.get("messages", [])]
        calls = [call["function"]["arguments"] for m in body.get("messages", []) for call in m.get("tool_calls") or []]
        return sum(map(self.tokens, [*texts, *calls]))

    def tokenize(self, body: Request) -> tuple[int, Any]:
        """What ``/tokenize`` answers."""
        with self._lock:
            self.tokenized.append(body)
        text = body.get("prompt" if self.tokenizer == "vLLM" else "content")
        if self.tokenizer is None or not isinstance(text, str):
            return 404, _error("File Not Found", "not_found_error", None)
        count = self.tokens(text)
        whole = {"count": count, "max_model_len": self.context_window} if self.tokenizer == "vLLM" else {}
        return 200, {**whole, "tokens": list(range(count))}

    def refusal(self, body: Request, headers: dict[str, str]) -> tuple[int, Any] | None:
        """The status and body with which a well-behaved server refuses this request."""
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and given != self.api_key:
            return 401, _error(f"Incorrect API key provided: {given}", "invalid_request_error", "invalid_api_key")
        if self.known_models is not None and "model" in body and body["model"] not in self.known_models:
            return 404, _error(f"model {body.get('model')} not found", "not_found_error", "model_not_found")
        for field in self.rejects:
            if field in body:
                message = "invalid request" if self.vaguely else _unsupported(field)
                return 400, _error(message, "invalid_request_error", None, None if self.vaguely else field)
        if body and self.refuses(body):
            return 400, _error("not this", "invalid_request_error", None)
        size = self.prompt_tokens(body)
        if self.context_window is not None and size > self.context_window:
            with self._lock:
                self.overflows += 1
            return 400, overflow(self.overflow_form, size, self.context_window)
        return None


def overflow(form: OverflowForm, prompt: int, window: int) -> Any:
    """The body of a refusal because of length, in the words of each server."""
    if form == "llama.cpp":
        message = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        details = {"n_prompt_tokens": prompt, "n_ctx": window}
        return {"error": {"code": 400, "message": message, "type": "exceed_context_size_error", **details}}
    if form == "openai":
        message = (
            f"This model's maximum context length is {window} tokens. However, your messages resulted in {prompt} "
            "tokens. Please reduce the length of the messages."
        )
        return _error(message, "invalid_request_error", "context_length_exceeded", "messages")
    message = (
        f"This model's maximum context length is {window} tokens. However, you requested {prompt + 50} tokens "
        f"({prompt} in the messages, 50 in the completion). Please reduce the length of the messages or completion."
    )
    flat = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    return flat if form == "vllm" else {"error": flat}


def _error(message: str, kind: str, code: str | None, param: str | None = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _unsupported(field: str) -> str:
    instead = " Use 'max_completion_tokens' instead." if field == "max_tokens" else ""
    return f"Unsupported parameter: '{field}' is not supported with this model.{instead}"


class _HTTPServer(ThreadingHTTPServer):
    script: ScriptedServer
    daemon_threads = False  # closing waits for them, so that no test leaves one behind


class _Handler(BaseHTTPRequestHandler):
    server: _HTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    replying = False

    @property
    def script(self) -> ScriptedServer:
        return self.server.script

    def setup(self) -> None:
        super().setup()
        self.script.track(self.connection)

    def finish(self) -> None:
        self.script.track(self.connection, gone=True)
        try:
            super().finish()
        except OSError:
            pass  # nobody left to flush for

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client went away in the middle
            self.close_connection = True
            if self.replying and not self.script.closing.is_set():
                self.script.disconnected.set()

    def do_GET(self) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        if (refusal := self.script.refusal({}, headers)) is not None:
            self.send_json(*refusal)
        elif self.path == "/v1/models":
            names = self.script.known_models if self.script.known_models is not None else ["scripted"]
            entries = [{"id": n, "object": "model", "owned_by": "scripted", **self.script.model_fields} for n in names]
            self.send_json(200, {"object": "list", "data": entries})
        elif self.path == "/props" and self.script.props is not None:
            self.send_json(200, self.script.props)
        elif self.path in self.script.answers:
            self.send_json(200, self.script.answers[self.path])
        else:
            self.send_json(404, _error("File Not Found", "not_found_error", None))

    def do_POST(self) -> None:
        body: Request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {k.lower(): v for k, v in self.headers.items()}
        if self.path == "/tokenize":
            self.send_json(*self.script.tokenize(body))
            return
        if self.path in self.script.answers:
            self.send_json(200, self.script.answers[self.path])
            return
        behaviour = self.script.record(body, headers)
        refusal = self.script.refusal(body, headers)
        if refusal is None:
            refusal = _REFUSALS.get(behaviour)
        if refusal is not None:
            extra = {"retry-after": self.script.retry_after} if self.script.retry_after and behaviour == "429" else {}
            self.send_json(*refusal, extra)
        elif behaviour == "html":
            self.send_body(200, b"<!doctype html><title>Welcome</title>", "text/html")
        elif behaviour == "silent":
            self.wait_for_client()
        else:
            self.replying = True
            self.reply(body, behaviour)
            self.replying = False

    def reply(self, body: Request, behaviour: Behaviour) -> None:
        broken = behaviour in _BROKEN
        scripted = self.script.next_reply(body, consume=not broken and behaviour != "pings")
        if scripted is None:
            self.send_json(400, _error("the script holds no more replies", "invalid_request_error", "script_ended"))
            return
        deltas, finish = self.deltas(scripted, body)
        if behaviour == "json":
            self.send_json(200, self.whole(scripted, body, finish, len(deltas)))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]})
        if behaviour == "pings":
            while not self.script.closing.wait(0.005):
                self.write_chunk(b": still here\n\n")
        for delta in deltas[: (len(deltas) + 1) // 2] if broken else deltas:
            self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if broken:
            self.break_off(behaviour)
            return
        if behaviour.startswith("endless"):
            key = "reasoning_content" if behaviour == "endless-reasoning" else "content"
            while not self.script.closing.is_set():
                self.event({"choices": [{"index": 0, "delta": {key: " and so on"}, "finish_reason": None}]})
        if behaviour != "no-finish":
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if behaviour == "hangs-after-finish":
            self.wait_for_client()
            return
        if behaviour != "no-done":
            wanted = (body.get("stream_options") or {}).get("include_usage")
            if self.script.usage and wanted:
                self.event({"choices": [], "usage": self.count(body, len(deltas))})
            self.write_chunk(b"data: [DONE]\n\n")
        self.write_chunk(b"")

    def deltas(self, scripted: str | ToolReply, body: Request) -> tuple[list[dict[str, Any]], str]:
        if isinstance(scripted, str):
            return [{"content": piece} for piece in self.script.chunks(self.script.cut(scripted, body))], "stop"
        text: list[dict[str, Any]] = [{"content": piece} for piece in self.script.chunks(scripted.text)]
        return text + [{"tool_calls": [piece]} for piece in self.call_pieces(scripted)], "tool_calls"

    def call_pieces(self, call: ToolReply) -> Iterator[dict[str, Any]]:
        function = {"name": call.name, "arguments": ""}
        yield {"index": 0, "id": call.id, "type": "function", "function": function}
        for piece in self.script.chunks(call.arguments):
            yield {"index": 0, "function": {"arguments": piece}}

    def whole(self, scripted: str | ToolReply, body: Request, finish: str, size: int) -> Any:
        message: dict[str, Any] = {"role": "assistant"}
        if isinstance(scripted, str):
            message["content"] = self.script.cut(scripted, body)
        else:
            function = {"name": scripted.name, "arguments": scripted.arguments}
            message["content"] = scripted.text or None
            message["tool_calls"] = [{"id": scripted.id, "type": "function", "function": function}]
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {
            "object": "chat.completion",
            "model": "scripted-1",
            "choices": [choice],
            "usage": self.count(body, size),
        }

    def count(self, body: Request, completion: int) -> dict[str, Any]:
        prompt = self.script.prompt_tokens(body)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.script.cached_tokens},
        }

    def break_off(self, behaviour: Behaviour) -> None:
        self.close_connection = True
        if behaviour == "stalls":
            self.wait_for_client()
        elif behaviour == "truncated":
            self.write_chunk(b"")
        elif behaviour == "cut-chunk":
            self.wfile.write(b'400\r\ndata: {"choices": [')
        elif behaviour == "malformed":
            self.write_chunk(b'data: {"choices": [{"delta": {"content": "ha\n\n')
            self.write_chunk(b"data: [DONE]\n\n")
            self.write_chunk(b"")
        elif behaviour == "error-event":
            self.event(_error("the engine fell over", "server_error", None))
            self.write_chunk(b"")
        else:
            # With no lingering, close sends a reset. The handler's files hold the descriptor as well.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.close()
            self.rfile.close()
            self.connection.close()

    def wait_for_client(self) -> None:
        """Say nothing until the client gives up or the server closes."""
        select.select([self.connection], [], [], 30)
        if not self.script.closing.is_set():
            self.script.disconnected.set()
        self.close_connection = True

    def event(self, payload: dict[str, Any]) -> None:
        shared = {} if "error" in payload else {"object": "chat.completion.chunk", "model": "scripted-1"}
        self.write_chunk(b"data: " + json.dumps({**shared, **payload}).encode() + b"\n\n")

    def write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_json(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        self.send_body(status, json.dumps(payload).encode(), "application/json", headers)

    def send_body(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


_BROKEN = ("reset", "truncated", "cut-chunk", "malformed", "error-event", "stalls")
_REFUSALS: dict[str, tuple[int, Any]] = {
    "429": (429, _error("Rate limit reached", "requests", "rate_limit_exceeded")),
    "quota": (429, _error("You exceeded your current quota", "insufficient_quota", "insufficient_quota")),
    "500": (500, _error("The server had an error", "server_error", None)),
    "404": (404, _error("File Not Found", "not_found_error", None)),
    "400": (400, _error("'messages' must alternate", "invalid_request_error", None)),
}
