import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from codeact.contracts import DisplayOutput, ErrorOutput, ExecutionResult, Image, Reply, StreamOutput
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionStarted,
    ModelReplied,
    Notice,
    RunFinished,
    RunStarted,
    ToolCalled,
)
from codeact.page import to_html
from codeact.trajectory import Header, Trajectory
from tests.test_raster import picture

ALLOWED = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "content", "name"},
    "a": {"href", "rel"},
    "img": {"src", "alt"},
    "th": {"colspan", "rowspan"},
    "td": {"colspan", "rowspan"},
    "ol": {"start"},
    **{tag: {"class"} for tag in ("section", "div", "p", "figure", "pre", "span", "ul", "details")},
    **{
        tag: set()
        for tag in "head title style body main footer figcaption code summary li table thead tbody tr".split()
    },
    **{tag: set() for tag in "strong em b i br h1 h2 h3 blockquote hr sub sup caption tfoot".split()},
}

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1)) [y](data:text/html,<script>1</script>) ![z](https://evil.example/pixel.png)",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "</style><script>alert(1)</script>",
    "</pre></code></title></main><iframe src=https://evil.example></iframe>",
    "<style>body{background:url(https://evil.example)}</style>",
    '<table onclick="alert(1)" style="position:fixed"><tr><td onmouseover=alert(1) colspan=2>cell</td></tr></table>',
    "<table><tr><td><form action=https://evil.example><input><button>go</button></form>"
    "<link rel=stylesheet href=https://evil.example><base href=https://evil.example><math><mtext></mtext></math></td></tr></table>",
    "<table><!--<img src=x onerror=alert(1)>--><noscript><p title='</noscript><img src=x onerror=alert(1)>'></table>",
    '"><meta http-equiv=refresh content=0;url=https://evil.example>',
    "\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07 \x00\ud800",
]


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*outputs: StreamOutput | DisplayOutput | ErrorOutput, text: str = "task") -> str:
    events: list[Event] = [
        RunStarted(task=text, files=(text,)),
        ModelReplied(turn=1, reply=Reply(text="", thought=text, code=text)),
        ExecutionStarted(turn=1, code=text),
        ToolCalled(turn=1, id=text, tool=text, arguments={text: [text]}, result={text: text}, approval="approved"),
        ToolCalled(turn=1, id=text, tool=text, error=text),
        ExecutionFinished(turn=1, result=ExecutionResult(status="error", outputs=outputs, notice=text)),
        Notice(text=text),
        ModelReplied(turn=2, reply=Reply(text=text, code=text)),
        ModelReplied(turn=3, reply=Reply(text=text, answer=text)),
        RunFinished(reason="model_error", message=text),
    ]
    return to_html(Trajectory(header=Header(created=text), events=tuple(events)))


def assert_inert(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag in ALLOWED, tag
        assert set(attributes) <= ALLOWED[tag], (tag, attributes)
        assert re.match(r"(https?:|mailto:)", attributes.get("href") or "https:"), attributes
        assert re.match(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$", attributes.get("src", "") or "") or (
            "src" not in attributes
        )
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert [a.get("http-equiv") for tag, a in page.tags if tag == "meta"].count("Content-Security-Policy") == 1
    assert sum(tag == "meta" for tag, _ in page.tags) == 4


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_hostile_stays_active(hostile: str) -> None:
    encoded = base64.b64encode(hostile.encode("utf-8", "replace")).decode()
    html = page_of(
        StreamOutput(name="stdout", text=hostile),
        DisplayOutput(data={"text/html": hostile}),
        DisplayOutput(data={"text/html": f"<table><tr><td>{hostile}</td></tr></table>", "text/plain": hostile}),
        DisplayOutput(data={"text/plain": hostile, "image/svg+xml": hostile}),
        DisplayOutput(data={"image/png": hostile}),
        DisplayOutput(data={"image/png": encoded}),
        DisplayOutput(data={hostile: hostile}),
        ErrorOutput(name=hostile, message=hostile, traceback=(hostile,)),
        text=hostile,
    )
    assert_inert(html)
    html.encode()
    assert "\x1b" not in html and "\x00" not in html


def test_the_policy_allows_its_own_style_and_nothing_else() -> None:
    html = page_of()
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [a["content"] for t, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme:dark" in style


def test_everything_that_happened_is_on_the_page() -> None:
    png = picture("png", 32, 16)
    error = ErrorOutput(
        name="NameError", message="name 'y' is not defined", traceback=("\x1b[31mNameError: no y\x1b[0m",)
    )
    events: list[Event] = [
        RunStarted(task="How many\nrows?", files=("data.csv",)),
        ModelReplied(turn=1, reply=Reply(text="", thought="I *look*.", code="import pandas")),
        ExecutionStarted(turn=1, code="import pandas\nprint('hi')"),
        ExecutionFinished(
            turn=1,
            result=ExecutionResult(
                status="error",
                outputs=(
                    StreamOutput(name="stdout", text="\x1b[32mgreen\x1b[0m\r\n"),
                    DisplayOutput(data={"text/plain": "plain", "text/html": "<table><tr><th>col</th></tr></table>"}),
                    DisplayOutput(data={"text/plain": "<Figure>", "image/png": png.data}),
                    error,
                ),
            ),
        ),
        ModelReplied(turn=2, reply=Reply(text="", answer="**406** rows\n\n| a | b |\n|---|---|\n| 1 | 2 |")),
        RunFinished(reason="answered", turns=2, executions=1),
    ]
    html = to_html(Trajectory(events=tuple(events)))
    page = Page(html)
    assert_inert(html)
    for part in ("How many\nrows?", "data.csv", "print", "green", "col", "406", "2 turns · 1 executions"):
        assert part in page.text
    assert "<title>How many</title>" in html and "<em>look</em>" in html and "<strong>406</strong>" in html
    assert '<span class="kn">import</span>' in html  # highlighted
    assert f'<img src="data:image/png;base64,{png.data}" alt="Image, 32×16 pixels">' in html
    assert "<summary>NameError: name &#x27;y&#x27; is not defined</summary>" in html
    assert html.count("<table>") == 2 and "plain" not in page.text


def test_a_picture_that_is_none_is_not_inlined() -> None:
    fake = Image(mime="image/png", data=base64.b64encode(b"GIF89a no png").decode())
    html = page_of(DisplayOutput(data={"text/plain": "words instead", "image/png": fake.data}))
    assert "<img" not in html and "words instead" in html


def test_calls_of_tools_are_told() -> None:
    call = ToolCalled(turn=1, id="1", tool="pay", arguments={"to": "<b>Ann</b>"}, result=5, approval="approved")
    events: list[Event] = [ExecutionStarted(turn=1, code="pay()"), *[call] * 60]
    events.append(ExecutionFinished(turn=1, result=ExecutionResult(status="ok")))
    text = Page(to_html(Trajectory(events=tuple(events)))).text
    assert text.count("pay(to='<b>Ann</b>') (approved by the user) → 5") == 50 and "10 more calls of host tools" in text
