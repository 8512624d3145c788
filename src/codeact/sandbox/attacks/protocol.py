"""Attacks on the host by messages: the code knows the kernel's sockets and its key, so it can say anything.

The host answers for itself: it must not fail, hang, grow or call what it should not, neighbours must not notice, and
the session must end in a state that is told. The code here only says things, and tells where an answer gave it more
than an error.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from codeact.sandbox.attacks.ground import Facts, attack

ODD: tuple[Any, ...] = (None, True, -1, 1e308, float("nan"), float("inf"), 10**400, "", "\0", "\ud800", "x" * 100_000,
       [], {}, [[]] * 1000, {"": None}, {"\udfff": ["\udfff"]}, [{"a": [{}]}])  # fmt: skip
CALL = "\x00codeact-call:"


class Forger:
    """Says things on the kernel's channels, well signed if not told otherwise."""

    def __init__(self) -> None:
        from IPython import get_ipython

        self.kernel: Any = get_ipython().kernel
        self.parent = self.kernel.get_parent("shell")
        self.identity = [bytes(part) for part in self.kernel._get_shell_context_var(self.kernel._shell_parent_ident)]

    def frames(self, kind: Any, content: Any, parent: Any = None, header: Any = None, key: bytes | None = None) -> list[bytes]:  # fmt: skip # noqa: E501
        import hashlib
        import hmac

        made = {"msg_id": os.urandom(8).hex(), "msg_type": kind, "username": "", "session": "s", "version": "5.4"}
        above = self.parent["header"] if parent is None else parent
        told = [made if header is None else header, above, {}, content]
        parts = [part if isinstance(part, bytes) else json.dumps(part, default=str).encode() for part in told]
        key = self.kernel.session.key if key is None else key
        signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        return [b"<IDS|MSG>", signature, *parts]

    def send(self, channel: str, frames: list[bytes]) -> None:
        if channel == "iopub":
            self.kernel.iopub_socket.send_multipart([b"topic", *frames])
        elif channel == "shell":
            self.kernel.shell_stream.send_multipart([*self.identity, *frames])
        else:
            self.kernel.stdin_socket.send_multipart([*self.identity, *frames])

    def say(self, kind: Any, content: Any, channel: str = "iopub", **rest: Any) -> None:
        self.send(channel, self.frames(kind, content, **rest))

    def raw(self, frames: list[bytes]) -> None:
        """Past the kernel's own bounds, on iopub."""
        with self.kernel.iopub_socket.lock:
            self.kernel.iopub_socket.socket.send_multipart(frames)

    def ask(self, prompt: str) -> str:
        """The host's answer to an ``input_request``."""
        return str(self.kernel._input_request(prompt, self.identity, self.parent))


def refused_call(call: Any) -> str | None:
    answer = Forger().ask(CALL + (call if isinstance(call, str) else json.dumps(call)))
    told = json.loads(answer)
    refused = isinstance(told, dict) and "error" in told and not {"result", "results"} & set(told)
    return None if refused else f"{call!r} was answered {answer[:200]}"


def first(found: Iterator[str | None]) -> str | None:
    return next((one for one in found if one), None)


# --- who says it, and of what ----------------------------------------------------------------------------------------


@attack("protocol")
def forged_reply(facts: Facts) -> str | None:
    """End the running execution by a reply of one's own, and go on."""
    forger = Forger()
    forger.say("execute_reply", {"status": "ok", "execution_count": 1, "payload": [{"source": "page"}]}, "shell")
    forger.say("status", {"execution_state": "idle"})
    time.sleep(0.3)
    return None


@attack("protocol")
def forged_reply_with_wrong_fields(facts: Facts) -> str | None:
    """End the running execution by a reply whose every field is wrong."""
    forger = Forger()
    names = [{"name": "n" * 100_000, "type": str(i), "shape": [10**400] * 50} for i in range(20)]
    for odd in (*ODD, names, [names], "../" * 30 + "etc/passwd"):
        changes = {"added": odd, "changed": odd, "removed": odd}
        reply = {
            "status": odd,
            "execution_count": odd,
            "codeact": changes,
            "ename": odd,
            "evalue": odd,
            "traceback": odd,
        }
        forger.say("execute_reply", reply, "shell")
    forger.say("status", {"execution_state": "idle"})
    return None


@attack("protocol")
def forged_reply_to_a_later_execution(facts: Facts) -> str | None:
    """Have the kernel answer the next execution with nonsense."""
    kernel = Forger().kernel

    async def do_execute(*_: Any, **__: Any) -> dict[str, Any]:
        return {"status": "aborted", "execution_count": "../../x", "codeact": [1], "traceback": [{}], "payload": 1}

    kernel.do_execute = do_execute
    return None


@attack("protocol")
def replies_to_nothing(facts: Facts) -> str | None:
    """Answer requests that were never made."""
    forger = Forger()
    for number in range(100):  # more would crowd out the true reply
        for kind in ("execute_reply", "kernel_info_reply", "codeact_state_reply", "codeact_fork_reply", "input_reply"):
            forger.say(kind, {"status": "ok"}, "shell", parent={"msg_id": f"{number}"})
    return None


@attack("protocol")
def answers_never_asked_for(facts: Facts) -> str | None:
    """Send on the stdin channel what only a client sends: answers, executions, a shutdown."""
    forger = Forger()
    for kind in ("input_reply", "execute_request", "shutdown_request", "interrupt_request", "execute_reply"):
        forger.say(kind, {"value": "x", "code": "1", "restart": False, "status": "ok"}, "stdin")
    return None


@attack("protocol")
def forged_states(facts: Facts) -> str | None:
    """Say that the kernel starts, is idle, is dead, and what no kernel says."""
    forger = Forger()
    for state in ("starting", "idle", "busy", "dead", "restarting", "terminating", *ODD):
        forger.say("status", {"execution_state": state})
    return None


@attack("protocol")
def wrong_signatures(facts: Facts) -> str | None:
    """Have a message taken whose signature is not the key's."""
    forger = Forger()
    content = {"name": "stdout", "text": facts["forgery"]}
    whole = forger.frames("stream", content)
    for signature in (b"", b"0" * 64, whole[1].upper(), whole[1][:-1], whole[1] + b"0", b"\xff" * 64):
        forger.raw([b"topic", whole[0], signature, *whole[2:]])
    forger.raw([b"topic", *forger.frames("stream", content, key=b"another key")])
    other = forger.frames("stream", {"name": "stdout", "text": "x"})
    forger.raw([b"topic", *other[:-1], whole[-1]])
    return None


@attack("protocol")
def wrong_identities(facts: Facts) -> str | None:
    """Have a message taken from before its delimiter, or with frames that are none of its own."""
    forger = Forger()
    whole = forger.frames("stream", {"name": "stdout", "text": facts["forgery"]})
    cut, fewer = whole[1:], whole[:4]
    for frames in (cut, fewer, [b"x"] * 5, [b""], [b"", b""], [whole[0]], [whole[0]] * 6, whole[::-1]):
        forger.raw(frames)
    forger.raw([b"topic", whole[0], *forger.frames("stream", {"name": "stdout", "text": "x"})[1:3], *whole])
    return None


# --- calls of host tools ---------------------------------------------------------------------------------------------


@attack("protocol")
def questions_that_are_no_calls(facts: Facts) -> str | None:
    """Ask the user of the host for something."""
    forger = Forger()
    for prompt in ("Password: ", "", CALL[1:], f" {CALL}{{}}", CALL.upper(), "\0" * 1000):
        try:
            return f"{prompt!r} was answered {forger.ask(prompt)[:200]!r}"
        except EOFError:
            continue
    return None


@attack("protocol")
def calls_of_tools_that_are_not_there(facts: Facts) -> str | None:
    """Call what is no host tool."""
    name = facts["tool"]
    names = ("call", "__import__", "__class__", "eval", "os.system", "tools", "", name.upper(), f"{name} ", f"{name}\0",
             f"../{name}", [name], {name: 1}, None, 0, True, "x" * 1_000_000)  # fmt: skip
    return first(refused_call({"tool": name, "arguments": {}}) for name in names)


@attack("protocol")
def calls_without_proper_arguments(facts: Facts) -> str | None:
    """Call a host tool with what is no arguments."""
    name = facts["tool"]
    odd: tuple[Any, ...] = ([], [{}], "x", "{}", None, 1, True)
    calls: list[Any] = [{"tool": name, "arguments": wrong} for wrong in odd]
    calls += [{"calls": wrong} for wrong in ({"tool": name, "arguments": {}}, name, None, [{"tool": name}] * 1000)]
    calls += [{"tool": name}, [name, {}], name, None, f'{{"tool": "{name}", "arguments": {{}}', "\ud800", "{" * 5000]
    return first(refused_call(call) for call in calls)


@attack("protocol", seconds=5)
def thousands_of_calls(facts: Facts) -> str | None:
    """Make more calls than anybody answers, and wait for none."""
    forger = Forger()
    prompt = CALL + json.dumps({"tool": "none", "arguments": {"text": "x" * 100_000}})
    for _ in range(800):
        forger.say("input_request", {"prompt": prompt}, "stdin")
    return None


@attack("protocol")
def long_headers_to_be_echoed(facts: Facts) -> str | None:
    """Have the host send back a megabyte for each question, and read none of it."""
    forger = Forger()
    for number in range(100):
        header = {"msg_type": "input_request", "msg_id": f"{number}", "session": "x" * 1_000_000}
        forger.say("input_request", {"prompt": "?"}, "stdin", header=header)
    return None
