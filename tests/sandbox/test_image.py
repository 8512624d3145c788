"""A process's memory in another one: outside of any sandbox, with nothing but the module itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from codeact.sandbox import image
from tests.sandbox.ordinary import REPOSITORY

pytestmark = pytest.mark.skipif(not image.is_possible(), reason="there is machine code for x86-64 only")

START = """
import json, os, signal, sys, threading
from codeact.sandbox import image

def file():
    descriptor = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 1 << 32)
    return descriptor

def become(sources, word):
    reading, writing = os.pipe()
    os.write(writing, word)
    image.restore(sources, image.read_head(sources[0]), reading)

def forked(function):
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def tell(**facts):
    print(json.dumps(facts), flush=True)

def written(source):
    return sum(length for _, length, *_ in image.read_head(source)["pieces"])
"""


def told(code: str, timeout: float = 60) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("files", [1, 2, 3])
def test_memory_goes_on_in_another_process(files: int) -> None:
    """Registers, stack, heap, mappings, a library loaded meanwhile, a generator in the middle; and twice."""
    code = """
sources = [file() for _ in range(FILES)]

def original():
    import decimal, sqlite3
    state = {"numbers": (n * n for n in range(9)), "large": bytearray(b"x") * (9 << 20)}
    state["third"] = decimal.Decimal(1) / 3
    next(state["numbers"]); next(state["numbers"])
    small = [str(n) for n in range(200_000)]
    word = image.capture(sources, {"for": "whoever reads it"})
    if word == 0:
        tell(original=True, next=next(state["numbers"]))
        used = {number for *_, number in image.read_head(sources[0])["pieces"]}
        assert used == set(range(FILES))
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    state["large"][0] = 65
    thread = threading.Thread(target=lambda: state.update(thread=1)); thread.start(); thread.join()
    tell(word=os.read(word, 9).decode(), next=next(state["numbers"]), large=len(state["large"]),
         thread=state["thread"], third=str(state["third"])[:5], small=len(small),
         database=sqlite3.connect(":memory:").execute("select 7").fetchone(),
         whole=state["large"].count(b"x") == (9 << 20) - 1)
    os._exit(0)

assert forked(original) == 0
assert image.read_head(sources[0])["told"] == {"for": "whoever reads it"}
for word in (b"first", b"second"):
    assert forked(lambda: become(sources, word)) == 0
""".replace("FILES", str(files))
    first, *copies = told(code)
    assert first == {"original": True, "next": 4}
    same = {
        "next": 4,
        "large": 9 << 20,
        "thread": 1,
        "third": "0.333",
        "small": 200_000,
        "database": [7],
        "whole": True,
    }
    assert copies == [{"word": "first", **same}, {"word": "second", **same}]


def test_what_the_base_holds_is_not_in_an_image() -> None:
    """Before and after: how much is written of a process with 64 MB; and that a fork that has changed is put back."""
    code = """
held = bytearray(64 << 20)
for position in range(0, len(held), 4096): held[position] = 7
early, late = file(), file()

def capture_into(source):
    def original():
        held[0] = 1
        word = image.capture([source], {})
        if word:
            tell(first=held[0], second=held[4096], third=held[8192])
        os._exit(0)
    return original

assert forked(capture_into(early)) == 0
assert image.rebase()
assert forked(capture_into(late)) == 0
tell(early=written(early) >> 20, late=written(late) >> 20)

def copy():
    held[0], held[4096] = 99, 98
    become([late], b"x")

assert forked(copy) == 0
tell(unchanged=held[0] == held[4096] == 7, threads=threading.active_count())
"""
    sizes, copy, own = told(code)
    assert sizes["early"] >= 64 and sizes["late"] < 20
    assert copy == {"first": 1, "second": 7, "third": 7}
    assert own == {"unchanged": True, "threads": 1}


def test_base_cannot_be_written_to() -> None:
    code = """
assert image.rebase()
outcome = []
for attempt in (lambda: os.pwrite(image.base, b"x", 0), lambda: os.ftruncate(image.base, 0),
                lambda: __import__("mmap").mmap(image.base, 4096)):
    try:
        attempt()
        outcome.append("done")
    except OSError:
        outcome.append("refused")
tell(outcome=outcome)
"""
    assert told(code) == [{"outcome": ["refused"] * 3}]


def test_too_much_is_refused_and_nothing_is_lost() -> None:
    code = """
held = bytearray(b"x" * (32 << 20))
source = file()
try:
    image.capture([source], {}, room=16 << 20)
except OSError as error:
    tell(said=str(error), held=len(held) >> 20, descriptors=len(os.listdir("/proc/self/fd")))
before = len(os.listdir("/proc/self/fd"))
assert image.capture([source], {}) == 0
tell(descriptors=len(os.listdir("/proc/self/fd")) - before, blocks=sum(r.start >> 40 == 1 for r in image.regions()))
"""
    refused, after = told(code)
    assert "memory limit of 16 MiB" in refused["said"] and refused["held"] == 32
    assert after == {"descriptors": 0, "blocks": 0}


def test_writer_that_fails_is_told_of_and_nothing_is_left() -> None:
    code = """
import fcntl
held = bytearray(b"x" * (32 << 20))
for small in (0, 1):
    sources = [file(), file()]
    os.ftruncate(sources[small], 1 << 20)
    for source in sources:
        fcntl.fcntl(source, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    notes = file()
    try:
        image.capture(sources, {}, notes=notes)
    except OSError as error:
        tell(said=str(error), blocks=sum(r.start >> 40 == 1 for r in image.regions()))
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        tell(children=0)
"""
    outcomes = told(code)
    assert len(outcomes) == 4
    for refused, after in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert "could not write its memory" in refused["said"] and refused["blocks"] == 0
        assert after == {"children": 0}


def test_copies_of_copies_leave_nothing_behind() -> None:
    """What restores a memory stands in memory itself: it is not to be carried on and on."""
    code = """
def generation(number):
    source = file()
    word = image.capture([source], {})
    if word == 0:
        become([source], b"x")
    os.close(word); os.close(source)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    tell(blocks=sum(r.start >> 40 == 1 for r in image.regions()))
    if number < 3:
        generation(number + 1)
    os._exit(0)

assert forked(lambda: generation(1)) == 0
"""
    assert told(code) == [{"blocks": 0}] * 3


@pytest.mark.parametrize(
    "damage",
    [
        "os.pwrite(source, b'\\xff' * 8, (1 << 32) - 8)",
        "os.pwrite(source, b'x' * 100, (1 << 32) - 200)",
        "os.ftruncate(source, 1 << 20)",
    ],
)
def test_damaged_image_costs_the_process_that_reads_it(damage: str) -> None:
    code = f"""
source = file()
if image.capture([source], {{}}) == 0:
    {damage}
    tell(status=forked(lambda: become([source], b"x")))
else:
    tell(restored=True)
"""
    (outcome,) = told(code)
    assert outcome["status"] not in (0, None)
