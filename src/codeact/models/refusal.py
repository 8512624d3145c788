"""What a model server says when it says no, read from the forms that servers use.

Forms known: OpenAI ``{"error": {"message", "type", "code", "param"}}``; llama.cpp the same with ``n_prompt_tokens`` and
``n_ctx``; vLLM flat ``{"object": "error", "message", "code"}`` in older versions; Google's list around it; plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from codeact.errors import ContextOverflow


@dataclass(frozen=True)
class Refusal:
    """``status`` is HTTP's, from the response or from the payload (for an error inside a stream)."""

    message: str
    status: int | None = None
    code: str = ""
    param: str = ""
    prompt_tokens: int | None = None
    context_window: int | None = None

    def names(self, parameter: str) -> bool:
        """Whether the server objects to this parameter of the request."""
        return self.param == parameter or re.search(rf"\b{re.escape(parameter)}\b", self.message) is not None

    @property
    def temporary(self) -> bool:
        """Whether asking again may help. An error of unknown status inside a stream is taken for temporary."""
        if self.code == "insufficient_quota":
            return False
        return self.status is None or self.status in (408, 409, 425, 429) or self.status >= 500

    def overflow(self) -> ContextOverflow | None:
        """The error to raise if the prompt is too large for the model, else None.

        Codes where the server has them. vLLM, LM Studio and some gateways have only their sentence.
        """
        if self.code not in _OVERFLOW_CODES and not _OVERFLOW_TEXT.search(self.message):
            return None
        prompt = self.prompt_tokens or _number(_PROMPT_TEXT, self.message)
        window = self.context_window or _number(_WINDOW_TEXT, self.message)
        size = f" of {prompt} tokens" if prompt else ""
        limit = f" of {window}" if window else ""
        message = (
            f"the prompt{size} does not fit the model's window{limit}: shorten it or raise the server's context size"
        )
        return ContextOverflow(message, prompt, window)


_OVERFLOW_CODES = ("context_length_exceeded", "exceed_context_size_error")
_OVERFLOW_TEXT = re.compile(
    r"maximum context length|context length of only|exceeds? the (?:available |model's )?context (?:size|window|length)"
    r"|prompt is too long|input token count .{0,40}exceeds",
    re.IGNORECASE,
)
# The first alternative that matches wins: "(4900 in the messages" is more exact than "requested 5000 tokens".
_PROMPT_TEXT = (
    r"\((\d[\d,]*) in the (?:messages|prompt)",
    r"(?:messages|prompt|input|request) (?:resulted in|has|contains|with) (?:at least )?(\d[\d,]*)(?: input)? tokens",
    r"(?:request|prompt is too long:|count) \(?(\d[\d,]*)",
    r"requested (?:at least )?(\d[\d,]*) tokens",
    r"first (\d[\d,]*) tokens",
)
_WINDOW_TEXT = (
    r"maximum context length (?:is|of) (\d[\d,]*)",
    r"context length of only (\d[\d,]*)",
    r"context (?:size|window|length) \(?(?:of )?(\d[\d,]*)",
    r"> (\d[\d,]*) maximum",
    r"tokens allowed \((\d[\d,]*)\)",
)


def _number(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, text, re.IGNORECASE):
            return int(match.group(1).replace(",", ""))
    return None


def read_refusal(body: object, status: int | None = None) -> Refusal:
    """Reads an error body that was JSON (parsed) or text. Never raises; what is missing stays empty."""
    while isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, Mapping) and body.get("error"):
        body = body["error"]
    if not isinstance(body, Mapping):
        return Refusal(message=_line(body), status=status)
    code = body.get("code")
    if status is None:
        status = _int(code)
    kind = body.get("type")
    return Refusal(
        message=_line(body.get("message") or body.get("detail") or dict(body)),
        status=status,
        code=code if isinstance(code, str) and not code.isdigit() else kind if isinstance(kind, str) else "",
        param=body["param"] if isinstance(body.get("param"), str) else "",
        prompt_tokens=_int(body.get("n_prompt_tokens")),
        context_window=_int(body.get("n_ctx")),
    )


def _int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _line(value: object) -> str:
    """One printable line of bounded length: servers are untrusted and messages go to terminals."""
    text = "" if value is None else str(value)[:4000]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 400 else text[:400] + "…"
