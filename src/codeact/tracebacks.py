"""An exception as the author of the code needs to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codeact.contracts import ErrorOutput
from codeact.plaintext import short, shorten, strip_ansi

_FRAME = re.compile(r"(?:Cell In\[|File )\S.*")
_SOURCE = re.compile(r"\s*-+> ?\d+ ?|\s+\d+(?: |$)|\s+\(\.\.\.\)|\s+\[\.\.\.")
_ARROW = re.compile(r"\s*-+> ?\d+")
_TITLE = re.compile(r"\w[\w.]*\s+Traceback \(most recent call last\):?\s*")
_CHAINED = re.compile(r"The above exception was the direct cause|During handling of the above exception")
_HIDDEN = re.compile(
    r"[/\\](?:IPython|ipykernel|(?:site-packages|src)[/\\]codeact)[/\\]|^File <(?:decorator-gen-|frozen )"
)
_HIDDEN_PLAIN = re.compile(r"^  File .*[/\\](?:IPython|ipykernel)[/\\].*\n    .*\n", re.MULTILINE)
_LIBRARY = re.compile(r"^File .*[/\\](?:site-packages|dist-packages|python3\.\d+)[/\\](?=.)")
_COMPILED = re.compile(r"File [\w./\\]+\.(?:pyx|pxi|pxd)\b")
_NOISE = re.compile(r"-{20,}|\s*|.*use %tb to see the full traceback.*")


def error_text(error: ErrorOutput) -> str:
    """The traceback as the code's author needs it: own frames with the line that failed, the last library frame, the
    message.

    Frames of IPython, of the kernel and of codeact are dropped. Long recursions are shortened, and of a cause that lies
    wholly inside a library only the message is kept.
    """
    last = f"{error.name}: {error.message}" if error.message else error.name
    last = strip_ansi(shorten(last, 20_000))
    if not error.traceback:
        return f"{last} (line {error.line})" if error.line else last
    text: list[str] = []
    cause: list[str] = []  # the messages since the last exception of a chain began
    frames: list[list[str]] = []
    start, own = 0, False
    for line in _traceback_lines(error.traceback):
        if _FRAME.match(line):
            frames.append([line])
            own = own or not _in_library(line)
        elif frames and _SOURCE.match(line):
            frames[-1].append(line)
        elif _TITLE.fullmatch(line):
            text.append("Traceback (most recent call last):")
        elif not _NOISE.fullmatch(line):
            text += _condense(frames)
            frames = []
            if _CHAINED.match(line):
                text[start:] = text[start:] if own else cause
                start, own, cause = len(text) + 1, False, []
            else:
                cause.append(line.rstrip())
            text.append(line.rstrip())
    text += _condense(frames)
    if error.name and not any(line.startswith((error.name, "SyntaxError")) for line in text[-200:]):
        text.append(last)
    return "\n".join(text)


def _traceback_lines(traceback: Sequence[str], most: int = 3000) -> list[str]:
    parts = [shorten(part, 20_000) for part in traceback]
    if len(parts) > most:
        parts[most // 2 : -(most // 2)] = [f"[{len(parts) - most:,} more frames left out]"]
    raw = strip_ansi(shorten("\n".join(parts), 1_000_000)).replace("\r", "").replace("\b", "")
    return _HIDDEN_PLAIN.sub("", raw).split("\n")


def _in_library(header: str) -> bool:
    return bool(_HIDDEN.search(header) or _LIBRARY.match(header) or _COMPILED.match(header))


def _condense(frames: list[list[str]]) -> list[str]:
    """The frames of one exception, outermost first."""
    visible = [frame for frame in frames if not _HIDDEN.search(frame[0])]
    own = [index for index, frame in enumerate(visible) if not _in_library(frame[0])]
    shown = set(own if len(own) <= 8 else own[:3] + own[-5:])
    if visible:
        shown.add(len(visible) - 1)
    text: list[str] = []
    left_out = 0
    for index, (header, *source) in enumerate(visible):
        if index not in shown:
            left_out += 1
            continue
        if left_out:
            text.append(f"[{left_out} {'frame' if left_out == 1 else 'frames'} left out]")
            left_out = 0
        text.append(short(_LIBRARY.sub("File ", header), 300))
        text += [short(line, 500) for line in source if _ARROW.match(line) and "Could not get source" not in line]
    return text
