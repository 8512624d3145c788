"""Attacks on the host by what a message holds, and by how much of it there is. See ``protocol``."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from codeact.sandbox.attacks.ground import Facts, attack
from codeact.sandbox.attacks.protocol import CALL, ODD, Forger

KINDS = ("stream", "display_data", "update_display_data", "execute_result", "error", "status", "execute_input",
         "clear_output", "comm_open", "comm_msg", "comm_close", "debug_event", "iopub_welcome", "shutdown_reply")  # fmt: skip # noqa: E501


# --- what a message holds --------------------------------------------------------------------------------------------


@attack("protocol")
def wrong_types_in_every_field(facts: Facts) -> str | None:
    """Say every kind of message with every field of a wrong type."""
    forger = Forger()
    fields = ("name", "text", "data", "metadata", "transient", "ename", "evalue", "traceback", "execution_state",
              "code", "execution_count", "comm_id", "prompt")  # fmt: skip
    for kind in (*KINDS, *ODD[:6]):
        for odd in ODD:
            forger.say(kind, dict.fromkeys(fields, odd))
    for odd in ODD:
        forger.say("stream", odd)
        forger.say("stream", {}, header=odd)
        forger.say("stream", {}, parent=odd)
        forger.say("input_request", {"prompt": odd}, "stdin")
        forger.say("display_data", {"data": {"text/plain": odd, "image/png": odd, "text/html": odd}})
    return None


@attack("protocol")
def what_is_not_json(facts: Facts) -> str | None:
    """Say what is no JSON, or just about."""
    forger = Forger()
    texts = (b"", b"\0", b"{", b"nul", b"{]}", b"\xff\xfe", b'{"a":1}{', b"\xef\xbb\xbf{}", b"NaN",
             b'{"text":"\xed\xa0\x80"}', b"-Infinity", b'{"name":"stdout","text":"\\ud800"}', b"'x'",
             b"[" * 100, b'{"a":1,"a":2}')  # fmt: skip
    for text in texts:
        for kind in ("stream", "display_data", "error"):
            forger.say(kind, text)
        forger.say("stream", {}, header=text)
        forger.say("stream", {}, parent=text)
    return None


@attack("protocol")
def deeply_nested_json(facts: Facts) -> str | None:
    """Say what is nested as deeply as the host's stack, and a little less and more."""
    forger = Forger()
    for depth in (*range(880, 1000, 4), 10_000, 1_000_000):
        for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
            deep = left * depth + b"1" + right * depth
            forger.say("display_data", b'{"data":{"text/plain":' + deep + b',"application/json":' + deep + b"}}")
            forger.say("error", b'{"ename":' + deep + b',"evalue":' + deep + b',"traceback":[' + deep + b"]}")
            forger.say("execute_reply", b'{"status":' + deep + b"}", "shell", parent={})
            forger.say("input_request", b'{"prompt":' + deep + b"}", "stdin")
    return None


@attack("protocol")
def huge_numbers(facts: Facts) -> str | None:
    """Say numbers that take long to read."""
    forger = Forger()
    for digits in (400, 4299, 4301, 1_000_000):
        number = b"9" * digits
        forger.say("display_data", b'{"data":{"text/plain":' + number + b',"application/json":[' + number + b"]}}")
        forger.say("error", b'{"ename":"E","evalue":' + number + b',"traceback":["Cell In[1], line ' + number + b'"]}')
        forger.say("status", b'{"execution_state":1e' + number + b"}")
    return None


@attack("protocol")
def a_million_small_things(facts: Facts) -> str | None:
    """Say what takes thirty times its size as objects."""
    forger = Forger()
    for piece in (b"[],", b'{"a":0},', b"1,", b'"",', b'{"":{}},', b'"\\\\",', b'"\\"",'):
        many = piece * ((10 << 20) // len(piece))
        forger.raw([b"topic", *forger.frames("display_data", b'{"data":[' + many + b"0]}")])
        forger.raw([b"topic", *forger.frames("error", b'{"ename":"E","evalue":"","traceback":[' + many + b"0]}")])
    return None


@attack("protocol")
def many_representations(facts: Facts) -> str | None:
    """Show one thing in half a million ways."""
    forger = Forger()
    ways = {f"a/{number}": "" for number in range(300_000)}
    forger.raw([b"topic", *forger.frames("display_data", {"data": ways})])
    return None


@attack("protocol")
def tracebacks_that_take_long_to_read(facts: Facts) -> str | None:
    """Say errors that make a search take the square of their length."""
    forger = Forger()
    for line in ("Cell " * 200_000, "Cell In[" * 100_000, "\x1b[" * 200_000, "\x1b]8;;" * 200_000, "File " * 200_000,
                 " " * 500_000 + "x", "-" * 500_000, "---> " * 100_000, "\x1b[" + "0" * 500_000, "\r" * 500_000,
                 "x\b" * 300_000, "\x1b[A\n" * 100_000, "\u0301" * 500_000):  # fmt: skip
        forger.say("error", {"ename": line, "evalue": line, "traceback": [line, line]})
        forger.say("stream", {"name": "stdout", "text": line})
        forger.say("display_data", {"data": {"text/plain": line, "text/html": f"<table><tr><td>{line}"}})
    return None


@attack("protocol")
def many_variables(facts: Facts) -> str | None:
    """Have the host remember a hundred thousand names."""
    kernel = Forger().kernel
    plain = kernel.do_execute

    async def do_execute(*arguments: Any, **options: Any) -> dict[str, Any]:
        reply: dict[str, Any] = await plain(*arguments, **options)
        reply["codeact"]["added"] = [{"name": f"{os.urandom(4).hex()}{i}", "type": "t" * 50} for i in range(100_000)]
        return reply

    kernel.do_execute = do_execute
    return None


@attack("protocol")
def scripts_in_what_is_shown(facts: Facts) -> str | None:
    """Show HTML, SVG, Markdown and scripts that act where a page takes them as they are."""
    forger = Forger()
    scripts = (
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<a href='javascript:alert(1)'>x</a>",
        "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>",
        "<iframe srcdoc='<script>alert(1)</script>'></iframe>", "<style>@import 'http://192.0.2.1'</style>",
        "</pre></div></body><script>alert(1)</script>", "<meta http-equiv=refresh content='0;url=javascript:1'>",
        "[x](javascript:alert(1))", "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
        "<form action=http://192.0.2.1><button>x</button></form>", "<base href=http://192.0.2.1>",
    )  # fmt: skip
    kinds = ("text/html", "image/svg+xml", "text/markdown", "text/latex", "application/javascript", "text/plain",
             "application/vnd.jupyter.widget-view+json", "image/png", "application/pdf")  # fmt: skip
    for script in scripts:
        forger.say("display_data", {"data": dict.fromkeys(kinds, script)})
        forger.say("display_data", {"data": {"text/html": f"<table><tr><td>{script}</td></tr></table>"}})
        forger.say("display_data", {"data": {script: script}})
        forger.say("stream", {"name": "stdout", "text": script})
        forger.say("error", {"ename": script, "evalue": script, "traceback": [script]})
    return None


# --- how much --------------------------------------------------------------------------------------------------------


@attack("protocol")
def frame_of_100_megabytes(facts: Facts) -> str | None:
    """Send a frame of 100 MB."""
    Forger().raw([bytes(100 << 20)])
    return None


@attack("protocol")
def message_of_33_megabytes(facts: Facts) -> str | None:
    """Send a well-formed message a little larger than any that is read."""
    forger = Forger()
    forger.raw([b"topic", *forger.frames("stream", {"name": "stdout", "text": "x" * (33 << 20)})])
    return None


@attack("protocol")
def largest_messages(facts: Facts) -> str | None:
    """Send many messages as large as are read."""
    forger = Forger()
    for mime in ("text/plain", "text/html", "image/png", "application/json"):
        frames = forger.frames("display_data", {"data": {mime: "x" * (31 << 20)}})
        forger.raw([b"topic", *frames])
    frames = forger.frames("stream", {"name": "stdout", "text": "\U0001f600" * (2 << 20)})
    forger.raw([b"topic", *frames])
    return None


@attack("protocol")
def message_without_end(facts: Facts) -> str | None:
    """Send a message of ever more frames."""
    forger, megabyte = Forger(), bytes(1 << 20)
    with forger.kernel.iopub_socket.lock:
        for frame in (megabyte, b"") * 120:
            forger.kernel.iopub_socket.socket.send(frame, 2)  # SNDMORE
            time.sleep(0.002)  # what is not sent yet is in this session's memory
        forger.kernel.iopub_socket.socket.send_multipart([b""] * 100_000)
    return None


@attack("protocol")
def hundred_thousand_small_messages(facts: Facts) -> str | None:
    """Send 100,000 messages that are none."""
    forger = Forger()
    with forger.kernel.iopub_socket.lock:
        for _ in range(100_000):
            forger.kernel.iopub_socket.socket.send(b"")
    return None


@attack("protocol", seconds=20)
def thousands_of_small_outputs(facts: Facts) -> str | None:
    """Print 5,000 times one character to each stream in turn, each in a message of its own."""
    forger = Forger()
    for _ in range(5_000):
        for name in ("stdout", "stderr"):
            forger.say("stream", {"name": name, "text": "x"})
    return None


def flood(seconds: float) -> list[threading.Thread]:
    """Talk on all three channels at once, as fast as they take it."""
    forger = Forger()
    end = time.monotonic() + seconds

    def talk(channel: str, make: Callable[[], list[bytes]]) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(Exception):
                forger.send(channel, make())

    text = {"name": "stdout", "text": "x" * 1000}
    talks: list[tuple[str, Callable[[], list[bytes]]]] = [
        ("iopub", lambda: forger.frames("stream", text)),
        ("shell", lambda: forger.frames("execute_reply", text, parent={})),
        ("stdin", lambda: forger.frames("input_request", {"prompt": CALL + '{"tool": "none", "arguments": {}}'})),
    ]
    threads = [threading.Thread(target=talk, args=one, daemon=True) for one in talks]
    for thread in threads:
        thread.start()
    return threads


@attack("protocol", seconds=2)
def flood_on_every_channel(facts: Facts) -> str | None:
    """Talk without pause on every channel, so that the true reply is crowded out."""
    for thread in flood(1.5):
        thread.join()
    return None


@attack("protocol", seconds=2)
def flood_while_nobody_listens(facts: Facts) -> str | None:
    """Talk without pause after the execution has ended."""
    flood(1.5)
    return None


@attack("protocol", seconds=2)
def flood_without_end(facts: Facts) -> str | None:
    """Talk without pause, and stop for no interrupt."""
    os.nice(19)
    while True:
        with contextlib.suppress(BaseException):
            for thread in flood(600):
                thread.join()
