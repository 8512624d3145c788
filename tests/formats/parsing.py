"""Feeding replies to parsers in every cut, and a grammar of the replies that models write."""

from __future__ import annotations

from itertools import groupby, pairwise

from hypothesis import strategies as st

from codeact.contracts import Reply, ReplyParser, TextDelta
from codeact.formats import get_format

STOP = "\nExecution Output:"


def read(parser: ReplyParser, pieces: list[str], *, close_early: bool = True) -> tuple[Reply, list[tuple[str, str]]]:
    """The reply and what was shown live, neighbours of one kind joined. Like the agent, stop at ``complete``."""
    shown: list[tuple[str, str]] = []
    for piece in pieces:
        shown += [(delta.kind, delta.text) for delta in parser.feed(TextDelta(text=piece))]
        if close_early and parser.complete:
            break
    reply = parser.finish()
    return reply, [(kind, "".join(text for _, text in group)) for kind, group in groupby(shown, key=lambda d: d[0])]


def parse(text: str, name: str = "tags", *, lenient: bool = True) -> Reply:
    return read(get_format(name).parser(lenient=lenient), [text])[0]


def live(text: str, kind: str, name: str = "tags") -> str:
    """What is shown of one kind while ``text`` streams in single characters."""
    return "".join(shown for k, shown in read(get_format(name).parser(), list(text))[1] if k == kind)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(edges)]


CODE_LINES = (
    "x = 1",
    "print('it is </execute> here')",
    'y = "<execute>"',
    "# a comment with </execute> inside",
    "# don't",
    "s = f'{x!r} </execute> {y}'",
    'raw = r"\\" + "</execute>"',
    '"""doc\n</execute>\n```\nmore"""',
    "t = '''\n```python\nprint(1)\n```\n'''",
    "!echo it's",
    "%timeit x",
    "if x < 2:\n    y = x",
    "a = '\\''  # quote",
    "z = x </ y",
    "``",
    "'unterminated",
)
PROSE = (
    "I'll think.",
    "Use the `<execute>` tag and ``x ` y``.",
    "The <execute> tag runs code.",
    "Write <execute> and </execute> around it, ",
    "<thought>maybe <execute>1</execute> or ```python</thought>",
    "<thought>never closed <execute>",
    "</think>",
    "a lone ` backtick",
    "3 < 4 and </",
    "<solution>42</solution>",
    "<Solution >the <execute> way",
    "```json\n{}\n```\n",
    "```",
    "~~~python\nq = 2\n~~~\n",
    "<think>hmm <execute>2</execute></think>",
)
ENDS = ("", "\n", "</s>", "<|im_end|>", "\n<|im_en", "</exec", "</execute", "\n```", "<", STOP, STOP[:9], " and more")

code = st.lists(st.sampled_from(CODE_LINES), max_size=4).map("\n".join)
block = st.one_of(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(("<execute>", "<Execute >\n", "< execute>\n```python\n", "<execute>\n   ")),
        code,
        st.sampled_from(("\n", "", "  # ", "\n```\n")),
        st.sampled_from(("</execute>", "</ EXECUTE>", "")),
    ),
    st.builds(
        "{}{}\n{}\n".format,
        st.sampled_from(("```python\n", "\n````py\n", "  ```Python3\n", "~~~python\n")),
        code,
        st.sampled_from(("```", "````", "~~~", "")),
    ),
)
invention = st.builds((STOP + "\n{}").format, st.one_of(st.sampled_from(PROSE), block))
part = st.one_of(st.sampled_from(PROSE), block, st.sampled_from(("\n", " ", "\n\n")), invention)
replies = st.builds(lambda parts, end: "".join(parts) + end, st.lists(part, max_size=6), st.sampled_from(ENDS))
noise = st.text(alphabet=st.sampled_from(list("<>/ executsoln`~'\"#\\\n!%|ab")), max_size=60)
