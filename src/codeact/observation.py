"""From what happened to what the model reads.

The text is short, in the order of events, free of control codes, and honest: whatever was left out is counted and,
where the whole was kept, its file is named. What stands in square brackets is said by codeact (but code can print
brackets too: nothing here is proof of who said it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias, assert_never

from codeact import raster
from codeact.contracts import (
    DisplayOutput,
    ErrorOutput,
    ExecutionResult,
    Image,
    Output,
    StateChanges,
    StreamOutput,
    Value,
    Variable,
)
from codeact.plaintext import plain, short, shorten, strip_ansi
from codeact.tracebacks import error_text

Style: TypeAlias = Literal["codeact", "codeact-upstream", "mint"]
LIMITS: dict[Style, int] = {"codeact": 4000, "codeact-upstream": 4000, "mint": 2000}
"""Characters of output that each style shows if not told otherwise."""

OVERHEAD = 3500
"""Characters, at most, that ``render`` adds to its limit: what was cut, how the execution ended, state changes."""

_NOTHING = {"ok": "[The code ran and printed nothing.]", "error": "[The code failed without a message.]"}
_RAW = 1 << 18
_IMAGES = 8


class Observation(Value):
    """``text`` for the model; ``images`` for models that take them (at most 8); ``full_text`` is the text before it
    was cut, itself bounded to about 500,000 characters, or None where nothing was cut."""

    text: str
    images: tuple[Image, ...] = ()
    full_text: str | None = None


def render(
    result: ExecutionResult,
    *,
    limit: int | None = None,
    style: Style = "codeact",
    steps_left: int = 0,
    chances_left: int = 0,
) -> Observation:
    """What the model reads of one execution.

    ``limit`` is in characters of output (None: the style's own); the whole is longer by ``OVERHEAD`` at most.
    ``codeact`` is ours; ``codeact-upstream`` is the text of the original system; ``mint`` is that of the MINT
    benchmark, which tells ``steps_left`` and ``chances_left``. Only about 250,000 characters at either end of the
    output are looked at, however long it is.
    """
    limit = LIMITS[style] if limit is None else max(0, limit)
    raw = max(_RAW, 4 * limit)
    images: list[Image] = []
    if style == "codeact-upstream":
        body, gap = _join(result.outputs, raw, lambda output: _upstream_piece(output, raw), "")
        if result.status == "timeout":
            body += _upstream_timeout(result)
        body = body or _UPSTREAM_NOTHING
        images = [image for image in result.images if raster.size(image)][:_IMAGES]
        notes: list[str] = []
    else:
        body, gap = _join(result.outputs, raw, lambda output: _piece(output, images, raw), "\n")
        body = body.rstrip("\n")
        notes = _notes(result)
        if not body.strip():
            body = _NOTHING.get(result.status, "")
    text, cut = _shorten_with(body, limit, gap, result)
    whole = "\n".join(part for part in (text, *notes) if part)
    if style == "mint":
        counts = f"You have {steps_left} steps left and {chances_left} chances to propose solution left."
        whole = f"Observation:\n{whole}\n{counts}"
    return Observation(text=whole, images=tuple(images), full_text=body if cut else None)


def _shorten_with(body: str, limit: int, gap: int, result: ExecutionResult) -> tuple[str, bool]:
    """``body`` within the limit; ``gap`` characters are missing from it already. Also tells whether any were cut."""
    where = f"; the whole output is in the file {short(result.full_output, 200)}" if result.full_output else ""
    if len(body) > limit:
        more = gap + result.dropped
        return shorten(body, limit, lambda n: f"[… {n + more:,} characters left out here{where} …]"), True
    if result.dropped:
        body += f"\n[{result.dropped:,} more characters of output are not shown here{where}]"
    return body, bool(gap or result.dropped)


# --- the order of things ------------------------------------------------------------------------------------------


def _join(
    outputs: Sequence[Output], budget: int, piece: Callable[[Output], str], separator: Literal["", "\n"]
) -> tuple[str, int]:
    """All outputs as one text, and how many characters the middle lacks. Only ``budget`` characters from each end are
    looked at closely."""
    merged = list(_merge(outputs))
    head = _reach(merged, budget)
    tail = max(head, len(merged) - _reach(merged[::-1], budget))
    between = sum(_weight(output) for output in merged[head:tail])
    texts = [piece(output) for output in merged[:head]]
    if tail > head:
        texts.append(f"[… {between:,} characters left out here …]\n")
    texts += [piece(output) for output in merged[tail:]]
    joined = ""
    parts: list[str] = []
    for text in texts:
        if separator and joined and not joined.endswith("\n"):
            parts.append(separator)
        parts.append(text)
        joined = text or joined
    within = sum(max(0, _weight(output) - budget) for output in merged[:head] + merged[tail:])
    return "".join(parts), between + within


def _merge(outputs: Iterable[Output]) -> Iterable[Output]:
    """Neighbouring pieces of one stream become one, so that a progress bar sent in pieces is seen whole."""
    pending: list[StreamOutput] = []
    for output in outputs:
        if pending and not (isinstance(output, StreamOutput) and output.name == pending[0].name):
            yield StreamOutput(name=pending[0].name, text="".join(p.text for p in pending))
            pending = []
        if isinstance(output, StreamOutput):
            pending.append(output)
        else:
            yield output
    if pending:
        yield StreamOutput(name=pending[0].name, text="".join(p.text for p in pending))


def _reach(outputs: Sequence[Output], budget: int) -> int:
    """How many outputs from the start fill the budget (the last may exceed it)."""
    for count, output in enumerate(outputs):
        if budget <= 0:
            return count
        budget -= _weight(output) + 100
    return len(outputs)


def _weight(output: Output) -> int:
    match output:
        case StreamOutput():
            return len(output.text)
        case DisplayOutput():
            return len(output.text)
        case ErrorOutput():
            return len(output.message) + sum(map(len, output.traceback))
        case _:
            assert_never(output)


def _clean(raw: str, budget: int, clean: Callable[[str], str] = plain) -> str:
    """Clean text, of which an overlong middle was cut out before any closer look."""
    if len(raw) <= budget:
        return clean(raw)
    head, tail = raw[: budget // 2], raw[-(budget // 2) :]
    newline = tail.find("\n", 0, 4096)
    tail = tail[newline + 1 :]
    return f"{clean(head)}\n[… {len(raw) - budget:,} characters left out here …]\n{clean(tail)}"


# --- our style ----------------------------------------------------------------------------------------------------


def _piece(output: Output, images: list[Image], budget: int) -> str:
    match output:
        case StreamOutput():
            return _clean(output.text, budget)
        case DisplayOutput():
            return _display(output, images, budget)
        case ErrorOutput():
            return error_text(output)
        case _:
            assert_never(output)


def _display(output: DisplayOutput, images: list[Image], budget: int) -> str:
    text = _clean(output.text, budget)
    if output.images:
        image = output.images[0]  # further ones are the same picture in other formats
        size = raster.size(image)
        if size is None:
            note = f"[{image.mime} that cannot be read]"
        else:
            images.append(image)
            seen = f"Image {len(images)}" if len(images) <= _IMAGES else "Image"
            del images[_IMAGES:]
            note = f"[{seen}: {image.mime}, {size[0]}×{size[1]} shown to the user]"
        is_bare_repr = text.startswith("<") and text.endswith(">") and "\n" not in text
        return note if is_bare_repr or not text else f"{text}\n{note}"
    if text or "text/plain" in output.data:
        return text
    if "image/svg+xml" in output.data:
        return "[SVG image shown to the user]"
    if output.html is not None:
        return "[HTML shown to the user]"
    return f"[{short(', '.join(output.data), 100)} shown to the user]" if output.data else ""


def _notes(result: ExecutionResult) -> list[str]:
    endings = {
        "timeout": ("Timed out", "the code was stopped at its time limit; what it printed until then is above."),
        "interrupted": ("Interrupted", "the code was stopped before it ended; what it printed until then is above."),
        "died": ("The kernel died", "all variables are lost; files in the workspace remain."),
    }
    notice = short(" ".join(plain(result.notice[:2000]).split()), 600) if result.notice else ""
    notes = []
    if result.status in endings:
        name, default = endings[result.status]
        notes.append(f"[{notice}]" if notice.startswith(name) else f"[{name}: {notice or default}]")
    elif notice:
        notes.append(f"[{notice}]")
    elif result.fresh_kernel:
        notes.append("[This ran in a new kernel: variables from before are gone.]")
    changes = changes_text(result.changes) if result.changes else ""
    if changes:
        notes.append(f"[{changes}]")
    return notes


def changes_text(changes: StateChanges, names: int = 10) -> str:
    """One line: ``New: df (DataFrame 406×9), n (int); changed: …; removed: …``, ``names`` of each kind at most."""
    groups = {
        "new": [variable_text(v) for v in changes.added[:names]],
        "changed": [variable_text(v) for v in changes.changed[:names]],
        "removed": [short(name, 32) for name in changes.removed[:names]],
    }
    totals = (len(changes.added), len(changes.changed), len(changes.removed))
    parts = []
    for (kind, shown), total in zip(groups.items(), totals, strict=True):
        if shown:
            more = f" and {total - len(shown)} more" if total > len(shown) else ""
            parts.append(f"{kind}: {', '.join(shown)}{more}")
    line = "; ".join(parts)
    return line[:1].upper() + line[1:]


def variables_text(variables: Sequence[Variable], limit: int) -> str:
    """Names with type and shape or length, in ``limit`` characters, and how many more there are."""
    shown: list[str] = []
    for variable in variables:
        text = variable_text(variable)
        if sum(map(len, shown)) + 2 * len(shown) + len(text) > limit:
            break
        shown.append(text)
    left = len(variables) - len(shown)
    more = f"{' and ' if shown else ''}{left} {'more' if shown else 'variables'}" if left else ""
    return ", ".join(shown) + more


def variable_text(variable: Variable) -> str:
    """``df (DataFrame 406×9)``: a name, its type, its shape or length."""
    kind = short(variable.type, 32)
    if variable.shape:
        kind += " " + short("×".join(map(str, variable.shape)), 24)
    elif variable.length is not None:
        kind += f", length {variable.length}"
    return f"{short(variable.name, 32)} ({kind})"


# --- the original's style -----------------------------------------------------------------------------------------

_UPSTREAM_NOTHING = "[Code executed successfully with no output]"
_UPSTREAM_IMAGE = "[An image is already displayed to the user.]"


def upstream_result_text(result: ExecutionResult) -> str:
    """The ``result`` field of the original's ``POST /execute``: uncut, pictures as Markdown with a data URL.

    Text printed before a timeout is kept; the original lost it. The limit told is the time that the code ran.
    """
    parts = []
    for output in result.outputs:
        parts.append(_upstream_piece(output, 1 << 40, picture=lambda i: f"![image](data:{i.mime};base64,{i.data})"))
    text = "".join(parts)
    if result.status == "timeout":
        text += _upstream_timeout(result)
    return text or _UPSTREAM_NOTHING


def _upstream_timeout(result: ExecutionResult) -> str:
    return f"[Execution timed out ({round(result.duration) or 60} seconds).]"


def _upstream_piece(output: Output, budget: int, picture: Callable[[Image], str] = lambda _: _UPSTREAM_IMAGE) -> str:
    match output:
        case StreamOutput():
            return _clean(output.text, budget, strip_ansi)
        case DisplayOutput():
            pngs = (image for image in output.images if image.mime == "image/png")
            return _clean(output.text, budget, strip_ansi) + "".join(picture(png) for png in pngs)
        case ErrorOutput():
            return _clean("\n".join(output.traceback), budget, strip_ansi)
        case _:
            assert_never(output)
