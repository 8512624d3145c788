"""What is kept of one execution's output: bounded in memory, whole on disk up to a bound, and counted beyond."""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque

from codeact.contracts import DisplayOutput, ErrorOutput, Output, StreamOutput

KEPT_TEXT = 200_000
"""Characters of stream text kept in a result: one half from the head, one half from the tail."""

KEPT_DISPLAYS = 16 << 20
"""Characters (base64 for pictures) of displayed objects kept in a result."""

KEPT_ERRORS = 1 << 20
"""Characters of errors kept in a result; each is cut so that several fit."""

_OVERHEAD = 500  # characters that a display or an error counts for beyond its own, so that empty ones are bounded too

WHOLE = 64 << 20
"""Bytes of text that the file with the whole output holds, and characters that are streamed to a watcher."""


class Collector:
    """Takes outputs in order; ``outputs`` gives back what is kept of them."""

    def __init__(self) -> None:
        self._head: list[Output] = []
        self._tail: deque[Output] = deque()
        self._head_room = KEPT_TEXT // 2
        self._tail_size = 0
        self._display_room = KEPT_DISPLAYS
        self._error_room = KEPT_ERRORS
        self.dropped = 0
        self.dropped_displays = 0
        self.text = 0
        self.streamed = 0
        self.whole = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # closed by close()
        self.no_room = False
        """There is no room for the whole output on this machine's disk: none of it is kept as a file."""

    def add(self, output: Output) -> bool:
        """Keep what there is room for. False when a watcher has been shown enough of this execution."""
        if isinstance(output, StreamOutput):
            self._write_whole(output.text)
            self._add_stream(output)
            self.streamed += len(output.text)
            return self.streamed <= WHOLE
        if isinstance(output, DisplayOutput):
            self._write_whole(output.text + "\n")
            size = _OVERHEAD + sum(len(mime) + len(data) for mime, data in output.data.items())
            if size > self._display_room:
                self.dropped_displays += 1
                return False
            self._display_room -= size
        elif isinstance(output, ErrorOutput):
            self._write_whole("\n".join(output.traceback) + "\n")
            output = _cut(output)
            size = _OVERHEAD + sum(map(len, (output.name, output.message, *output.traceback)))
            if size > self._error_room:
                self.dropped_displays += 1
                return False
            self._error_room -= size
        self._append(output, 0)
        return True

    def _write_whole(self, text: str) -> None:
        self.text += len(text)
        room = 0 if self.no_room else WHOLE - self.whole.tell()
        if room > 0:
            try:
                self.whole.write(text.encode("utf-8", "replace")[:room])
            except OSError:
                self.no_room = True
                self.close()

    def _add_stream(self, output: StreamOutput) -> None:
        if not output.text:
            return
        if not self._tail and self._head_room > 0:
            head, rest = output.text[: self._head_room], output.text[self._head_room :]
            self._head_room -= len(head)
            self._merge(self._head, StreamOutput(name=output.name, text=head))
            if not rest:
                return
            output = StreamOutput(name=output.name, text=rest)
        limit = KEPT_TEXT // 2
        if len(output.text) > limit:
            self.dropped += len(output.text) - limit
            output = StreamOutput(name=output.name, text=output.text[-limit:])
        self._append(output, len(output.text))
        while self._tail_size > limit:
            self._shorten_tail(self._tail_size - limit)

    def _append(self, output: Output, size: int) -> None:
        if size or self._tail:
            self._tail.append(output)
            self._tail_size += size
        else:
            self._head.append(output)

    def _shorten_tail(self, excess: int) -> None:
        """Cut ``excess`` characters off the oldest stream text of the tail; displays and errors stay."""
        for index, output in enumerate(self._tail):
            if isinstance(output, StreamOutput):
                cut = min(excess, len(output.text))
                self.dropped += cut
                self._tail_size -= cut
                if cut == len(output.text):
                    del self._tail[index]
                else:
                    self._tail[index] = StreamOutput(name=output.name, text=output.text[cut:])
                return

    @staticmethod
    def _merge(outputs: list[Output], output: StreamOutput) -> None:
        last = outputs[-1] if outputs else None
        if isinstance(last, StreamOutput) and last.name == output.name:
            outputs[-1] = StreamOutput(name=last.name, text=last.text + output.text)
        else:
            outputs.append(output)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What is kept, in order, neighbouring texts of one stream joined. A gap is marked where text was dropped."""
        joined: list[Output] = []
        for output in self._head:
            self._merge(joined, output) if isinstance(output, StreamOutput) else joined.append(output)
        if self.dropped:
            gap = StreamOutput(name="stdout", text=f"\n… {self.dropped} characters left out …\n")
            self._merge(joined, gap)
        for output in self._tail:
            self._merge(joined, output) if isinstance(output, StreamOutput) else joined.append(output)
        return tuple(joined)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it flushes what there is no room for
            self.whole.close()


def _cut(error: ErrorOutput) -> ErrorOutput:
    """The error with what is longer than anybody reads cut out of its middle."""
    limit = KEPT_ERRORS // 16
    lines, room = [], limit
    for line in reversed(error.traceback):  # the end says what happened
        if room < len(line) + 1:
            break
        lines.append(line)
        room -= len(line) + 1
    return error.model_copy(
        update={"name": error.name[:1000], "message": _middle(error.message, limit), "traceback": tuple(lines[::-1])}
    )


def _middle(text: str, limit: int) -> str:
    half = limit // 2
    return (
        text if len(text) <= limit else f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"
    )
