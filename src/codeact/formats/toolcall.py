"""Actions as native tool calls: one tool, ``python``, with one parameter, ``code``.

1. The first call counts. Further ones (another index, or another id, as some servers number every call 0) are dropped.
2. Arguments are a JSON object with the code under ``code`` (or a neighbouring name). Also understood: raw line breaks
   in the string, unescaped quotes, a Python triple-quoted string, a JSON string, a doubly encoded object, something
   behind the object, and bare code where an object was asked for. An object that breaks off is not run: ``code`` is
   empty and ``problem`` says why.
3. A tool by another name is taken for ``python`` when its arguments hold code under ``code``; ``problem`` then says so.
   Any other call of an unknown tool is not run.
4. Text beside the call is thought. Without a call it is the answer, ``<think>…</think>`` at its beginning left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from codeact.contracts import Reply, ReplyDelta, TextDelta, ToolCall, ToolCallDelta
from codeact.formats.ends import clean_code, trim_special_tokens
from codeact.formats.stream import EMPTY_REPLY, ONLY_REASONING

TOOL_NAME = "python"
_SAME_TOOL = frozenset(
    {"", "python", "functions.python", "ipython", "execute", "execute_python", "run_python", "code_interpreter"}
)
_CODE_KEYS = ("code", "source", "script", "input", "cell")
_CODE_BEGINS = re.compile(r'\s*\{\s*"code"\s*:\s*"')
_BROKEN_OBJECT = re.compile(r'\s*\{\s*"code"\s*:\s*("""|")(.*)\1\s*\}\s*\Z', re.DOTALL)
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|[nrt"\\/bf])')
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_DECODER = json.JSONDecoder(strict=False)

_SEND = 'Send {"code": "..."} with the code as one string.'
BROKEN_ARGUMENTS = f"The arguments of the call were not complete JSON, so nothing was run. {_SEND}"
NO_CODE = f"The call held no code, so nothing was run. {_SEND}"


class ToolCallParser:
    """Assembles one reply with a native tool call; the rules stand at the top of the module."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._arguments: list[str] = []
        self._index: int | None = None
        self._id = ""
        self._name = ""
        self._dropped = False
        self._live = LiveCode()

    @property
    def complete(self) -> bool:
        """True once a second call begins. A single call is over when the stream is."""
        return self._dropped

    @property
    def found(self) -> bool:
        """True when there was a call."""
        return self._index is not None

    @property
    def text(self) -> str:
        """The text beside the call."""
        return "".join(self._texts)

    def feed(self, chunk: TextDelta | ToolCallDelta) -> Sequence[ReplyDelta]:
        if self._dropped:
            return ()
        if isinstance(chunk, TextDelta):
            self._texts.append(chunk.text)
            return (ReplyDelta(kind="thought", text=chunk.text),) if chunk.text else ()
        if self._index is None:
            self._index = chunk.index
        if chunk.index != self._index or (chunk.id and self._id and chunk.id != self._id):
            self._dropped = True
            return ()
        self._id = self._id or chunk.id or ""
        self._name = self._name or chunk.name or ""
        self._arguments.append(chunk.arguments)
        code = self._live.feed(chunk.arguments)
        return (ReplyDelta(kind="code", text=code),) if code else ()

    def finish(self) -> Reply:
        text = self.text
        text = text[: trim_special_tokens(text, len(text))].strip()
        if not self.found:
            thought, tag, answer = text.rpartition("</think>")
            thought = thought.strip().removeprefix("<think>").strip()
            if not tag and text.startswith("<think>"):
                return Reply(text=text, answer=text.removeprefix("<think>").strip(), problem=ONLY_REASONING)
            problem = None if answer.strip() else ONLY_REASONING if thought else EMPTY_REPLY
            return Reply(text=text, thought=thought, answer=answer.strip(), problem=problem)
        arguments = "".join(self._arguments)
        call = ToolCall(id=self._id or _made_up_id(arguments), name=self._name or TOOL_NAME, arguments=arguments)
        code, problem = _code_of(call)
        return Reply(text=text, thought=text, code=code, dropped=self._dropped, tool_call=call, problem=problem)


def rendered_call(reply: Reply) -> ToolCall | None:
    """The call as the history shows it: always a call of ``python`` with valid arguments, as servers refuse others."""
    call = reply.tool_call
    if call is None:
        return None
    arguments = json.dumps({"code": reply.code or call.arguments}, ensure_ascii=False)
    return ToolCall(id=call.id, name=TOOL_NAME, arguments=arguments)


def _made_up_id(arguments: str) -> str:
    """Nine letters and digits, the form that the strictest servers ask for."""
    return hashlib.sha256(arguments.encode(errors="replace")).hexdigest()[:9]


def _code_of(call: ToolCall) -> tuple[str, str | None]:
    same_tool = call.name.lower() in _SAME_TOOL
    found, key = _find_code(call.arguments)
    if not same_tool and key not in _CODE_KEYS:
        return "", f"There is no tool {call.name[:80]!r}, so nothing was run. Write Python code that does it."
    if found is None:
        return "", BROKEN_ARGUMENTS
    code = clean_code("\n" + found.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if not code:
        return "", NO_CODE
    if not same_tool:
        return code, f"There is no tool {call.name[:80]!r}: the call was taken as one of {TOOL_NAME!r}."
    return code, None


def _find_code(arguments: str, depth: int = 0) -> tuple[str | None, str]:
    """The code in the arguments and the name that it stood under; None where it breaks off."""
    stripped = arguments.strip()
    if not stripped.startswith(("{", '"')):
        return stripped, ""
    try:
        value, _ = _DECODER.raw_decode(stripped)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, str):
        rest_is_code = stripped.startswith('"""') or not _is_json(stripped)
        if rest_is_code:
            return stripped, ""
        return _find_code(value, depth + 1) if depth == 0 and value.lstrip().startswith("{") else (value, "")
    if isinstance(value, dict):
        for key in _CODE_KEYS:
            if isinstance(value.get(key), str):
                return value[key], key
        strings = [v for v in value.values() if isinstance(v, str)]
        return (strings[0] if len(value) == len(strings) == 1 else ""), ""
    if stripped.startswith('"'):
        return stripped, ""
    broken = _BROKEN_OBJECT.match(stripped)
    if broken is not None:
        return _unescape(broken[2]) if broken[1] == '"' else broken[2], "code"
    looks_like_json = re.match(r'\{\s*("|\Z)', stripped) is not None
    return (None if looks_like_json else stripped), ""


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if escape[0] == "u" else _ESCAPED.get(escape, escape)


class LiveCode:
    """The code inside arguments that are still arriving, for display. Depends on the text alone; arguments in any other
    form than ``{"code": "…`` show nothing until they are whole."""

    def __init__(self) -> None:
        self._text = ""
        self._inside = False
        self._over = False

    def feed(self, piece: str) -> str:
        """The next piece of code that is sure."""
        if self._over:
            return ""
        self._text += piece
        if not self._inside:
            begins = _CODE_BEGINS.match(self._text)
            if begins is None:
                self._over = len(self._text) > 200
                return ""
            self._inside = True
            self._text = self._text[begins.end() :]
        return self._take()

    def _take(self) -> str:
        """Unescape up to the closing quote or an escape that is not whole (a pair of surrogates counts as one)."""
        out: list[str] = []
        pos = 0
        while pos < len(self._text):
            char = self._text[pos]
            if char == '"':
                self._over = True
                break
            if char != "\\":
                special = re.compile(r'["\\]').search(self._text, pos)
                stop = special.start() if special else len(self._text)
                out.append(self._text[pos:stop])
                pos = stop
                continue
            high = re.match(r"\\u[dD][89abAB]", self._text[pos : pos + 4]) is not None
            wide = self._text[pos + 1 : pos + 2] == "u"
            width = 12 if high else 6 if wide else 2
            if len(self._text) - pos < width:
                break
            escape = self._text[pos : pos + width]
            out.append(_unescape(escape).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            pos += width
        self._text = self._text[pos:]
        return "".join(out)
