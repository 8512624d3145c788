"""A trajectory as one HTML page that needs nothing else and in which nothing is active.

Everything in it is untrusted. It is escaped, or made by a renderer that lets no raw HTML through and then sanitised
against a list of allowed tags; the page's own policy forbids scripts, requests and any style but the one whose hash it
names.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING

from codeact import raster
from codeact.contracts import DisplayOutput, ErrorOutput, ExecutionResult, StreamOutput
from codeact.events import (
    Compacted,
    ExecutionFinished,
    ExecutionStarted,
    ModelReplied,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    ToolCalled,
)
from codeact.observation import changes_text
from codeact.payload import call_text, shown
from codeact.plaintext import plain, short, shorten
from codeact.tracebacks import error_text
from codeact.trajectory import Trajectory

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_TEXT = 200_000
"""Characters of one output that the page shows."""

_CALLS = 50
"""Calls of host tools of one execution that the page shows."""

_TABLE_TAGS = {
    "table",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "th",
    "td",
    "caption",
    "b",
    "strong",
    "i",
    "em",
    "sub",
    "sup",
    "br",
}
_BLOCK_TAGS = {
    "p",
    "div",
    "span",
    "code",
    "pre",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "hr",
}


def to_html(trajectory: Trajectory) -> str:
    """The page as text. Pictures are inlined where their bytes are what they claim: PNG, JPEG, GIF, WebP; never SVG."""
    parts: list[str] = []
    unrun: str | None = None
    calls = 0
    markdown = _markdown()
    title = "Conversation"
    for event in trajectory.events:
        if unrun is not None and isinstance(event, ModelReplied | RunStarted | RunFinished):
            parts.append(_code(unrun, "not run"))
            unrun = None
        match event:
            case RunStarted():
                title = title if parts else (event.task.strip().split("\n")[0][:80] or title)
                parts.append(_task(event))
            case ModelReplied(reply=reply):
                if reply.code is not None and reply.thought.strip():
                    parts.append(f'<div class="thought">{_rich(markdown, reply.thought)}</div>')
                if reply.answer is not None:
                    parts.append(f'<section class="answer">{_rich(markdown, reply.answer)}</section>')
                unrun = reply.code
            case ExecutionStarted():
                parts.append(_code(event.code, "Python"))
                unrun, calls = None, 0
            case ToolCalled():
                calls += 1
                if calls <= _CALLS:
                    parts.append(_call(event))
            case ExecutionFinished():
                if calls > _CALLS:
                    parts.append(f'<p class="note">{calls - _CALLS:,} more calls of host tools</p>')
                parts.append(_result(event.result))
            case Notice() | Resumed():
                parts.append(f'<p class="note">{_text(event.text)}</p>')
            case Compacted(summary=notes) if notes:
                parts.append(f'<p class="note">Notes of the model in the place of what came before: {_text(notes)}</p>')
            case RunFinished():
                parts.append(_finish(event))
            case _:
                pass
    if unrun is not None:
        parts.append(_code(unrun, "not run"))
    return _page(title, "\n".join(parts), f"{trajectory.header.created} · codeact {trajectory.header.codeact}")


def _page(title: str, body: str, footer: str) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
<footer>{_text(footer)}</footer>
</main>
</body>
</html>
"""


def _text(text: str) -> str:
    return escape(plain(text))


def _task(event: RunStarted) -> str:
    files = "".join(f"<li>{_text(name)}</li>" for name in event.files)
    attached = f'<ul class="files">{files}</ul>' if files else ""
    return f'<section class="task"><p>{_text(event.task)}</p>{attached}</section>'


def _finish(event: RunFinished) -> str:
    count = f"{event.turns} turns · {event.executions} executions · {event.duration:.1f} s"
    tokens = event.usage.prompt_tokens + event.usage.completion_tokens
    if tokens:
        count += f" · {tokens:,} tokens"
    ended = (
        "" if event.reason == "answered" else f"<strong>Ended: {escape(event.reason)}.</strong> {_text(event.message)} "
    )
    return f'<p class="end">{ended}{count}</p>'


def _code(code: str, label: str) -> str:
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]

    shown = shorten(plain(code), _TEXT)
    coloured = highlight(shown, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return f'<figure class="code"><figcaption>{_text(label)}</figcaption><pre><code>{coloured}</code></pre></figure>'


def _result(result: ExecutionResult) -> str:
    parts: list[str] = []
    for output in result.outputs:
        match output:
            case StreamOutput():
                name = "stderr" if output.name == "stderr" else "stdout"
                parts.append(_pre(output.text, name))
            case DisplayOutput():
                parts.append(_display(output))
            case ErrorOutput():
                parts.append(_error(output))
    said = []
    if result.status in ("timeout", "interrupted", "died") or result.notice:
        said.append(result.notice or f"Execution ended: {result.status}.")
    if result.changes and (line := changes_text(result.changes)):
        said.append(line)
    parts += [f'<p class="note">{_text(text)}</p>' for text in said]
    return f'<div class="output">{"".join(parts)}</div>' if parts else ""


def _call(event: ToolCalled) -> str:
    """A call of a host tool, in one line."""
    outcome = f"failed: {short(event.error, 500)}" if event.error is not None else shown(event.result, 500)
    decided = f" ({event.approval} by the user)" if event.approval else ""
    text = f"{call_text(event.tool, event.arguments, 500)}{decided} → {outcome}"
    return f'<p class="note">{_text(text)}</p>'


def _pre(text: str, name: str) -> str:
    shown = plain(shorten(text, _TEXT)).rstrip("\n")
    return f'<pre class="{name}">{escape(shown)}</pre>' if shown else ""


def _display(output: DisplayOutput) -> str:
    for image in output.images:
        if raster.decode(image) is not None:
            data = "".join(image.data.split())
            width, height = raster.size(image) or (0, 0)
            return f'<img src="data:{image.mime};base64,{data}" alt="Image, {width}×{height} pixels">'
    html = output.html
    if html is not None and len(html) <= _TEXT and ("<table" in html or not output.text):
        return f'<div class="table">{_sanitised(html)}</div>'
    if not output.text and output.data:
        return f'<p class="note">{_text(short(", ".join(output.data), 200))} is not shown here</p>'
    return _pre(output.text, "result")


def _error(error: ErrorOutput) -> str:
    last = plain(shorten(f"{error.name}: {error.message}", 300)).strip()
    trace = _text(shorten(error_text(error), _TEXT))
    return f'<details class="error"><summary>{_text(last)}</summary><pre>{trace}</pre></details>'


def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def _rich(markdown: MarkdownIt, text: str) -> str:
    import nh3

    return nh3.clean(
        markdown.render(shorten(plain(text), _TEXT)),
        tags=_TABLE_TAGS | _BLOCK_TAGS | {"a"},
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )


def _sanitised(html: str) -> str:
    import nh3

    return nh3.clean(
        plain(html),
        tags=_TABLE_TAGS | _BLOCK_TAGS,
        clean_content_tags={"script", "style", "svg", "math", "template", "noscript", "iframe", "object", "title"},
        attributes={"th": {"colspan", "rowspan"}, "td": {"colspan", "rowspan"}},
        url_schemes=set(),
        strip_comments=True,
    )


_STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf8;--fg:#22252a;--soft:#6b7078;--line:#e3e0da;--card:#fff;--accent:#2f5fb3;
--bad:#b3362b;--kw:#8a3fa0;--str:#2f7a3d;--num:#a3570a;--com:#8a8f98;--fn:#2f5fb3}
@media (prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#e4e5e7;--soft:#989da6;--line:#2d3138;--card:#1d2025;
--accent:#86b0f5;--bad:#f08a80;--kw:#d49ae6;--str:#8fce9b;--num:#e5ab6b;--com:#7a808a;--fn:#86b0f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:50rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
pre,code{font:13.5px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
a{color:var(--accent)}
.task{margin:2.5rem 0 1.5rem;padding:1rem 1.25rem;background:var(--card);
border:1px solid var(--line);border-radius:.75rem}
.task:first-child{margin-top:0}
.task p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-weight:550}
.files{list-style:none;display:flex;flex-wrap:wrap;gap:.4rem;margin:.75rem 0 0;padding:0}
.files li{font-size:.85rem;color:var(--soft);border:1px solid var(--line);border-radius:1rem;padding:.05rem .7rem}
.thought{color:var(--soft);margin:1.25rem 0 .5rem}
.code{margin:.75rem 0 0;border:1px solid var(--line);
border-radius:.75rem .75rem 0 0;background:var(--card);overflow:hidden}
.code:has(+.output){border-bottom:0}
.code figcaption{font-size:.75rem;color:var(--soft);padding:.35rem 1rem 0}
.code pre{padding:.35rem 1rem .8rem}
.output{margin:0 0 1.25rem;padding:.8rem 1rem;border:1px solid var(--line);border-radius:0 0 .75rem .75rem}
.output>*+*{margin-top:.6rem}
.output img{display:block;max-width:100%;height:auto;border-radius:.4rem;background:#fff}
.stderr{color:var(--soft)}
.note,.end,footer{font-size:.85rem;color:var(--soft);margin:.6rem 0}
.end strong{color:var(--bad)}
.error summary{cursor:pointer;color:var(--bad);font:13.5px/1.55 ui-monospace,Menlo,Consolas,monospace;
overflow-wrap:anywhere}
.error pre{margin-top:.5rem;padding-left:.8rem;border-left:2px solid var(--bad)}
.answer{margin:1.5rem 0;padding-left:1.1rem;border-left:3px solid var(--accent)}
.answer>:first-child,.thought>:first-child{margin-top:0}.answer>:last-child,.thought>:last-child{margin-bottom:0}
.table{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:1rem}
.k,.kn,.kc,.kd,.kr,.ow{color:var(--kw)}.s,.s1,.s2,.sd,.sa,.sb,.si,.se,.sr{color:var(--str)}
.m,.mi,.mf,.mh,.mo{color:var(--num)}.c,.c1,.cm,.ch{color:var(--com);font-style:italic}.nf,.nc,.nd,.nb{color:var(--fn)}
"""
