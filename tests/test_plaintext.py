import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.plaintext import plain, short, shorten, strip_ansi


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m and \x1b[1;38;5;4mblue\x1b[m", "red and blue"),
        ("\x1b]0;title\x07a\x1b]8;;https://x.org\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x1b]0;never closed\nnext", "\nnext"),
        ("a\x00b\x07c\x7fd\x9be", "abcd"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("  0%\r 50%\r100%\ndone\n", "100%\ndone\n"),
        ("abcdef\rXY", "XYcdef"),
        ("abcdef\r\x1b[KXY", "XY"),
        ("abcdef\x1b[2K\rXY", "XY"),
        ("abc\b\bX", "aXc"),
        ("bar 1\nbar 2\n\x1b[2A\x1b[2Kbar 1 done\n\x1b[2Kbar 2 done\n", "bar 1 done\nbar 2 done\n"),
        ("a\x1b[5Gb", "a   b"),
        ("\x1b[2J\x1b[Hkept", "kept"),
        ("half \x1b[3", "half "),
        ("lone \ud800 half", "lone \ufffd half"),
    ],
)
def test_what_a_terminal_shows(written: str, seen: str) -> None:
    assert plain(written) == seen


def test_far_cursor_moves_do_not_allocate() -> None:
    assert len(plain("\x1b[999999999Cx\n" * 100)) < 100 * 210
    assert len(plain("\x1b[99999999999999999999999Cx")) < 210


@given(st.text(alphabet=st.sampled_from("ab \n\r\b\x1b[]0123456789;ACDKGJm\x07\x9b\ud800é"), max_size=200))
def test_nothing_unprintable_is_left(text: str) -> None:
    shown = plain(text)
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in shown)
    assert plain(shown) == shown
    strip_ansi(shown).encode()


@given(st.text(), st.integers(0, 100))
def test_shortened_text_is_bounded_and_counts(text: str, limit: int) -> None:
    cut = shorten(text, limit, lambda n: f"<{n}>")
    if len(text) <= limit:
        assert cut == text
    else:
        head, _, rest = cut.partition("<")
        number, _, tail = rest.partition(">\n")
        assert len(cut) <= limit + 20
        assert text.startswith(head.removesuffix("\n")) or text.startswith(head)
        assert text.endswith(tail)
        assert int(number) >= len(text) - limit


def test_cut_at_line_ends_and_never_before_a_combining_mark() -> None:
    lines = "".join(f"line {n}\n" for n in range(1000))
    head, marker, *_ = shorten(lines, 400).partition("[")
    assert marker and head.endswith("\n")
    assert all(line.startswith(("line", "[…")) for line in shorten(lines, 400).splitlines())
    accents = "e\u0301" * 1000
    for limit in (98, 99, 100, 101):
        head, _, tail = shorten(accents, limit).split("\n")
        assert not tail.startswith("\u0301") and len(head) % 2 == 0


def test_short() -> None:
    assert short("abc", 3) == "abc"
    assert short("abcd", 3) == "ab…"
