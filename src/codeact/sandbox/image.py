"""The memory of a kernel, carried into another process that was forked from the same zygote.

A fork of a locked-in process stays in its namespaces, so a second session with the same state cannot be one. It is a
new session instead, born and locked in like any other, whose kernel takes over the memory of the first: both are forks
of one zygote, and so have the same layout. Nobody needs a privilege for that, and no door is opened in the boundary:

    capture()   forks the kernel, so that the copy stands still at one known point, and writes the copy's memory into
                files; the copy writes itself, guided by the kernel, and ends
    restore()   replaces the memory of the calling process by that in the files and goes on at that point

While memory is replaced no Python and no C library can run. A few dozen bytes of machine code do it: they carry out a
list of system calls and then return where the captured process was about to return (as ``longjmp`` does).

What is not memory is not carried: descriptors, threads, children, timers. Pages come from the file as they are touched,
shared by all that were restored from it until they write. x86-64 only. All of this runs inside the sandbox, in a
process that may do what the model's code may do; a damaged image costs the session that is restored from it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import re
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

_PAGE = mmap.PAGESIZE
_MACHINE = {
    # saves the callee-saved registers on the stack and the stack pointer in the block; then for each entry of the
    # block makes the system call and ends the process (status 71) where the outcome is not the expected one; at last
    # takes the stack pointer of the block that it is told of, restores the registers from there and returns
    "x86_64": bytes.fromhex(
        "53554154415541564157"  # push rbx, rbp, r12, r13, r14, r15
        "4889fb488923"  # rbx = block; block[0] = rsp
        "4c8d6340"  # r12 = first entry
        "498b04244883f8ff745a"  # next: rax = entry[0]; where it is -1, go to done
        "498b7c2408498b742410498b5424184d8b5424204d8b4424284d8b4c2430"  # rdi, rsi, rdx, r10, r8, r9 = entry[1:7]
        "0f05"  # syscall
        "4d8b6c24384983fdff7e0b"  # r13 = entry[7], the outcome expected; where it is negative, go to special
        "4c39e8751e"  # not as expected: go to failed
        "4983c440ebc0"  # ok: r12 += 64; go to next
        "483d00f0ffff7710"  # special: an error: go to failed
        "4885c075ed"  # not 0: go to ok
        "4983fdfe75e7"  # -1, anything but an error, is expected: go to ok
        "4d89cceba8"  # -2, and this is the child of a clone: r12 = entry[6], where its own list is; go to next
        "bf47000000b8e70000000f05"  # failed: exit_group(71)
        "488b4310488b5b08488b23"  # done: rax = block[2]; rbx = block[1]; rsp = rbx[0]
        "415f415e415d415c5d5bc3"  # pop r15, r14, r13, r12, rbp, rbx; ret
    )
}
_CALLS = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "mmap": 9,
        "munmap": 11,
        "brk": 12,
        "pread": 17,
        "pwrite": 18,
        "madvise": 28,
        "clone": 56,
        "wait": 61,
        "exit": 231,
    }
}

_HEAD = 64  # bytes of a block before its entries
_ENTRY = 64
_EIGHT = struct.Struct("=8Q")
_LAST = (1 << 64) - 1  # -1 as it stands in a block
_CHILD_GOES_ELSEWHERE = _LAST - 1
_STATUS, _SCRATCH = 48, 56  # places in the head
_MAP_FIXED, _MAP_NORESERVE, _MAP_FIXED_NOREPLACE = 0x10, 0x4000, 0x100000
_FIRST_PLACE, _LAST_PLACE = 1 << 40, 2 << 40  # far from where Linux puts anything by itself
_GAP = 2 * _PAGE  # untouched memory that is carried rather than left out of a run
_COPIED_BELOW = 64 << 10  # bytes of a piece that are copied; larger ones are mapped
_BLOCK = 8 << 20
_BASE, _BASE_SIZE = "codeact-base", 1 << 36  # of which is used what is written
_LARGE = 4 << 20  # bytes
_POPULATE_READ, _POPULATE_WRITE = 22, 23  # of madvise; Linux 5.14
_SAME_MEMORY = 0x700  # CLONE_VM | CLONE_FS | CLONE_FILES
_WALL = 0x40000000  # wait for a child that tells of its end by no signal
_TRIAL = 10.0  # seconds
_FAILED = 71  # the status in the machine code

base = -1
"""The file of ``rebase`` in a zygote and its forks."""

known: frozenset[str] = frozenset()
"""Lines of the memory map that stand for unchanging parts of files, the same in the zygote and its forks."""
_KERNELS_OWN = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.sbrk.restype, _libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


Run = tuple[int, int]
"""Address and length."""

Piece = tuple[int, int, int, int]
"""Address, length, offset in the file, which file."""


class Region(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def protection(self) -> int:
        return sum(bit for bit, flag in ((1, "r"), (2, "w"), (4, "x")) if flag in self.permissions)

    @property
    def is_large(self) -> bool:
        """Whether it is written first: large data that the process has made."""
        return self.end - self.start >= _LARGE and not self.inode

    @property
    def is_base(self) -> bool:
        """Whether it began as the zygote's memory, see ``rebase``."""
        return self.path.startswith(f"/memfd:{_BASE} ")

    @property
    def is_file(self) -> bool:
        """Whether what was not written to is still to be had from a file."""
        gone = self.path.endswith(" (deleted)") and not self.is_base
        return self.inode != 0 and self.permissions[3] == "p" and not gone


def is_possible() -> bool:
    """Whether this machine's processor is one that the code here is for."""
    return platform.machine() in _MACHINE


def regions(process: int | str = "self") -> list[Region]:
    """The memory map of a process, without what the Linux kernel puts there itself and what all have (``known``)."""
    found = []
    with open(f"/proc/{process}/maps") as file:
        for line in file:
            if line in known:
                continue
            span, permissions, offset, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            region = Region(start, end, permissions, int(offset, 16), device, int(inode), path[0] if path else "")
            if region.path not in _KERNELS_OWN:
                found.append(region)
    return found


class _Block:
    """The machine code and its list of system calls, at an address of its own."""

    def __init__(self, kind: int, avoid: Iterable[Region] = ()) -> None:
        for place in range(_FIRST_PLACE, _LAST_PLACE, _PAGE + _BLOCK):
            if any(region.start < place + _PAGE + _BLOCK and place < region.end for region in avoid):
                continue
            if self._map(place, _PAGE, mmap.MAP_PRIVATE, 7):
                self.code = place
                if self._map(place + _PAGE, _BLOCK, kind, 3):
                    break
                _libc.munmap(place, _PAGE)
        else:
            raise OSError("no room for the block")
        self.address = self.code + _PAGE
        self.first = self.address + _HEAD
        machine = _MACHINE[platform.machine()]
        ctypes.memmove(self.code, machine, len(machine))
        self._memory = (ctypes.c_char * _BLOCK).from_address(self.address)
        self._calls = _CALLS[platform.machine()]
        self.can_populate = _libc.madvise(self.address, _PAGE, _POPULATE_WRITE) == 0
        self.position = self.first

    @staticmethod
    def _map(address: int, size: int, kind: int, protection: int) -> bool:
        flags = kind | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
        return bool(_libc.mmap(address, size, protection, flags, -1, 0) == address)

    def add(
        self, call: str, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, *, expect: int = _LAST
    ) -> None:
        if self.position + 2 * _ENTRY > self.address + _BLOCK:
            raise OSError("the memory is in too many pieces to be carried")
        _EIGHT.pack_into(self._memory, self.position - self.address, self._calls[call], a, b, c, d, e, f, expect)
        self.position += _ENTRY

    def finish(self, resume: int, outcome: int) -> None:
        """Mark the end of the list: return ``outcome`` to where the block at ``resume`` was entered."""
        ctypes.memmove(self.position, struct.pack("=Q", _LAST), 8)
        ctypes.memmove(self.address + 8, struct.pack("=QQ", resume, outcome), 16)

    def head(self) -> Region:
        """What of the block a copy needs: where it was entered."""
        return Region(self.address, self.address + _PAGE, "rw-p", 0, "00:00", 0, "")

    def status(self) -> int:
        """What the system call ``wait`` left, in a block that is shared."""
        return int(ctypes.c_int.from_address(self.address + _STATUS).value)

    def run(self) -> int:
        return int(ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(self.code)(self.address))

    def remove(self) -> None:
        _libc.munmap(self.code, _PAGE)
        _libc.munmap(self.address, _BLOCK)


class _Share:
    """What one process writes, and into which file."""

    def __init__(self, number: int, target: int, block: _Block) -> None:
        self.number = number
        self.target = target
        self.block = block
        self.size = 0

    def add(self, runs: Iterable[Run]) -> Iterator[Piece]:
        for start, length in runs:
            self.block.add("pwrite", self.target, start, length, self.size, expect=length)
            yield start, length, self.size, self.number
            self.size += length


def capture(
    targets: Sequence[int],
    told: dict[str, Any],
    room: int = _BASE_SIZE,
    *,
    notes: int | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    planned: Callable[[], object] = lambda: None,
) -> int:
    """Write the memory of this process into one file or two, with ``told`` for whoever restores it.

    The files have their sizes already. Into two files two processes write at once, for Linux lets only one write to a
    file. What is known of the memory stands at the end of the first, or of the file ``notes``, for the others are not
    free before they are written. ``room`` is how much memory, in bytes, this process and the files may take together.
    ``meanwhile`` is called once the writing is under way, ``planned`` when all but the memory itself is written:
    ``read_head`` works from then on.

    Returns 0 here, once that is done, and a descriptor (see ``restore``) in each process restored from the files. To be
    called by the only thread that matters, with the locks held that other threads could hold. Raises OSError.
    """
    shares = [_Share(number, target, _Block(mmap.MAP_SHARED)) for number, target in enumerate(targets)]
    block = shares[0].block
    arrived, go = os.pipe(), os.pipe()
    block.add("write", arrived[1], block.address, 1, expect=1)
    block.add("read", go[0], block.address + _SCRATCH, 1, expect=1)
    guided = block.position
    block.finish(block.address, 0)
    brk = _libc.sbrk(0)
    child = os.fork()
    if child == 0:
        os.close(go[1])
        outcome = block.run()  # where nobody guides it, 0 at once
        _libc.munmap(_FIRST_PLACE, _LAST_PLACE - _FIRST_PLACE)  # every block: there is that of the restorer, too
        return outcome or os._exit(_FAILED)
    os.close(arrived[1])
    os.close(go[0])
    try:
        if not select.select([arrived[0]], [], [], _TRIAL)[0] or not os.read(arrived[0], 1):
            raise OSError("the copy of the kernel did not get ready: something runs after every fork of it")
        block.position = guided
        memory = [region for region in regions(child) if not _FIRST_PLACE <= region.start < _LAST_PLACE]
        memory = sorted([*memory, block.head()])
        large = [region for region in memory if region.is_large]
        pieces: list[Piece] = []
        parts = _parts(_runs(child, large), len(shares))
        for share, part in zip(shares[1:], parts[1:], strict=True):  # written by a child of the copy
            pieces += share.add(part)
            share.block.add("exit", 0)
            block.add("clone", _SAME_MEMORY, 0, 0, 0, 0, share.block.first, expect=_CHILD_GOES_ELSEWHERE)
        pieces += shares[0].add(parts[0])
        _check_room(pieces, room)
        block.add("read", go[0], block.address + _SCRATCH, 1, expect=1)
        os.write(go[1], b"x")
        meanwhile()
        pieces += shares[0].add(_runs(child, [region for region in memory if not region.is_large]))
        _check_room(pieces, room)
        for share in shares[1:]:
            block.add("wait", _LAST, share.block.address + _STATUS, _WALL)
        block.add("exit", 0)
        os.write(go[1], b"x")
        pieces.sort()
        head = {"regions": memory, "pieces": pieces, "block": block.address, "brk": brk, "told": told}
        text = json.dumps(head).encode()
        notes = targets[0] if notes is None else notes
        size = os.fstat(notes).st_size
        os.pwrite(notes, text + struct.pack("=Q", len(text)), size - len(text) - 8)
        planned()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(arrived[0])
        os.close(go[1])
        _, status = os.waitpid(child, 0)
        status = status or max(share.block.status() for share in shares)
        for share in shares:
            share.block.remove()
    if status:
        raise OSError(f"the copy of the kernel could not write its memory (status {status})")
    return 0


def _check_room(pieces: list[Piece], room: int) -> None:
    if 2 * sum(piece[1] for piece in pieces) > room:
        raise OSError(f"a copy of its state does not fit into the memory limit of {room >> 20} MiB beside it")


def _runs(child: int, memory: list[Region]) -> list[Run]:
    """What of these regions is to be written."""
    with open(f"/proc/{child}/pagemap", "rb", buffering=0) as pagemap:
        return [(start, end - start) for region in memory for start, end in _present(region, pagemap)]


def _parts(runs: list[Run], count: int) -> list[list[Run]]:
    """The same memory in that many parts of about one length."""
    most = -(-sum(length for _, length in runs) // count // _PAGE) * _PAGE
    parts: list[list[Run]] = [[] for _ in range(count)]
    taken = 0
    for start, length in runs:
        while length:
            here = min(length, most - taken % most)
            parts[taken // most].append((start, here))
            start, length, taken = start + here, length - here, taken + here
    return parts


def _present(region: Region, pagemap: Any) -> Iterator[tuple[int, int]]:
    """The parts of a region whose contents are this process's own."""
    if "r" not in region.permissions:
        return
    whole = "w" in region.permissions and not region.is_base  # for nobody knows which parts another one has changed
    if region.inode and (whole or not region.is_file):
        yield region.start, region.end
        return
    # bit 63: present, 62: swapped, 61: a page of a file or of shared memory
    pattern = rb"[\x80-\x9f\xc0-\xdf\x40-\x5f]+" if region.is_file else rb"[\x40-\xff]+"
    run: tuple[int, int] | None = None
    for start, end in _pages(region, pagemap, pattern):
        if run and start - run[1] <= _GAP:
            run = run[0], end
            continue
        if run:
            yield run
        run = start, end
    if run:
        yield run


def _pages(region: Region, pagemap: Any, pattern: bytes) -> Iterator[tuple[int, int]]:
    """The runs of pages whose top byte in the page map fits."""
    pagemap.seek(region.start // _PAGE * 8)
    top = pagemap.read((region.end - region.start) // _PAGE * 8)[7::8]
    for match in re.finditer(pattern, top):
        start, end = (region.start + position * _PAGE for position in match.span())
        yield start, end


def read_head(source: int) -> dict[str, Any]:
    """What ``capture`` wrote beside the memory: ``told`` and what ``restore`` needs. Raises ValueError, OSError."""
    end = os.fstat(source).st_size - 8
    (length,) = struct.unpack("=Q", os.pread(source, 8, end))
    head = json.loads(os.pread(source, length, end - length))
    if not isinstance(head, dict):
        raise ValueError("not an image")
    return head


def restore(
    sources: Sequence[int], head: dict[str, Any], mailbox: int, *, ready: int | None = None, mapped: bool = False
) -> NoReturn:
    """Become the process that ``capture`` copied: its call returns the descriptor ``mailbox``.

    This process must be a fork of the same zygote, with one thread. Its descriptors stay as they are. ``ready``: where
    two bytes will come as soon as the files are written; nothing is read of them before. ``mapped``: also small pieces
    are mapped from the files rather than copied. Where memory cannot be replaced the process ends with status 71.
    Raises OSError before anything was touched.
    """
    theirs = [Region(*region) for region in head["regions"]]
    own = regions()
    same = set(own)
    block = _Block(mmap.MAP_PRIVATE, theirs)
    if head["brk"] != _libc.sbrk(0):
        block.add("brk", head["brk"], expect=head["brk"])
    wanted = [region for region in theirs if "w" in region.permissions or not region.is_file or region not in same]
    copied, shared = _sorted_out(wanted, same, head["pieces"], mapped)
    opened: dict[str, int] = {}
    position = 0
    for region in wanted:
        first = position
        while position < len(copied) and copied[position][0] < region.end:
            position += 1
        _place(block, region, same, opened, copied[first:position])
    for start, end in _without(own, [(region.start, region.end) for region in theirs]):
        block.add("munmap", start, end - start)
    if ready is not None:
        block.add("read", ready, block.address + _SCRATCH, 2, expect=2)
    for start, length, offset, number in copied:
        block.add("pread", sources[number], start, length, offset, expect=length)
    for (start, length, offset, number), protection in shared:
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        block.add("mmap", start, length, protection, flags, sources[number], offset, expect=start)
    block.finish(head["block"], mailbox)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    block.run()
    os._exit(_FAILED)


def _sorted_out(
    wanted: list[Region], same: set[Region], pieces: list[Piece], mapped: bool
) -> tuple[list[Piece], list[tuple[Piece, int]]]:
    """The pieces that are to be copied, and those to be mapped with their protection. What both have is left out."""
    copied: list[Piece] = []
    shared: list[tuple[Piece, int]] = []
    position = 0
    for start, length, offset, number in pieces:
        while position < len(wanted) and wanted[position].end <= start:
            position += 1
        if position == len(wanted) or wanted[position].start > start:
            continue
        region = wanted[position]
        small = length < _COPIED_BELOW and "w" in region.permissions
        if region.path == "[stack]" or (not mapped and (small or (region.is_file and region in same))):
            copied.append((start, length, offset, number))
        else:
            shared.append(((start, length, offset, number), region.protection))
    return copied, shared


def _place(block: _Block, region: Region, same: set[Region], opened: dict[str, int], copied: list[Piece]) -> None:
    """Make room for a region where it was, with what its file holds, and for the pages that will be ``copied`` to it.

    Pages are got ready before the files are, so that writing to them needs no fault each.
    """
    length = region.end - region.start
    if region.path == "[stack]":
        return  # grows by itself as it is written
    if region in same and region.is_base:
        start = region.start
        for begin, size, *_ in copied:
            _libc.madvise(begin, size, _POPULATE_WRITE)
            if start < begin:
                block.add("madvise", start, begin - start, mmap.MADV_DONTNEED)  # as before this process wrote to it
            start = begin + size
        if start < region.end:
            block.add("madvise", start, region.end - start, mmap.MADV_DONTNEED)
        return
    if region in same and region.is_file:
        return  # is overwritten as a whole
    if region.is_file:
        if region.path not in opened:
            opened[region.path] = os.dup(base) if region.is_base else os.open(region.path, os.O_RDONLY | os.O_CLOEXEC)
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        block.add("mmap", region.start, length, region.protection, flags, opened[region.path], region.offset)
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
        block.add("mmap", region.start, length, region.protection, flags, _LAST, 0, expect=region.start)
    if block.can_populate:
        for begin, size, *_ in copied:
            block.add("madvise", begin, size, _POPULATE_WRITE)


def rebase(rehearsal: Callable[[], object] = lambda: None) -> bool:
    """Move the memory of this process, a zygote, into a sealed file that all its forks share. False where it cannot.

    What a fork has written to can then be told from what it has not: an image of it holds the former only. And a fork
    has less to copy. A fork tries the move first, so that a machine on which it fails loses no zygote.
    ``rehearsal`` does in another fork what forks do: the pages that it touches are mapped here, for all to share. More
    would only have to be copied with each fork.
    """
    global base, known
    if not is_possible() or len(os.listdir("/proc/self/task")) > 1:
        return False
    file = os.memfd_create(_BASE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, _BASE_SIZE)
        mailbox = capture([file], {})
    except OSError:
        os.close(file)
        return False
    if mailbox:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        trial = os.read(mailbox, 1) == b"t"
        os.close(mailbox)
        if trial:
            os._exit(0)
        base = file
        for start, end in _touched_by(rehearsal):
            _libc.madvise(start, end - start, _POPULATE_READ)
        with open("/proc/self/maps") as maps:
            known = frozenset(line for line in maps if re.fullmatch(r"\S+ r-[x-]p \S+ \S+ [1-9]\d* +/\S.*\n", line))
        return True
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    head = read_head(file)
    child = os.fork()
    if child == 0:
        _move(file, head, b"t")
    if not _ended_well(child):
        os.close(file)
        return False
    _move(file, head, b"g")


def _touched_by(rehearsal: Callable[[], object]) -> list[tuple[int, int]]:
    """The parts of the base that a fork touches which does this. None where it fails: only time depends on it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            rehearsal()
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap, open(writing, "w") as out:
                touched = rb"[\x80-\xff]+"  # bit 63: present
                json.dump([part for r in regions() if r.is_base for part in _pages(r, pagemap, touched)], out)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        ended = select.select([told], [], [], _TRIAL)[0]
        text = told.read() if ended else b""
    if not _ended_well(child) or not text:
        return []
    return [(start, end) for start, end in json.loads(text)]


def _move(file: int, head: dict[str, Any], word: bytes) -> NoReturn:
    reading, writing = os.pipe()
    os.write(writing, word)
    os.close(writing)
    restore([file], head, reading, mapped=True)


def _ended_well(child: int) -> bool:
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], _TRIAL)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)
    return os.waitpid(child, 0)[1] == 0


def _without(own: list[Region], placed: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of the own regions that lie in no placed one. Both are in order."""
    position = 0
    for region in own:
        start = region.start
        while position < len(placed) and placed[position][1] <= start:
            position += 1
        following = position
        while following < len(placed) and placed[following][0] < region.end:
            if placed[following][0] > start:
                yield start, placed[following][0]
            start = max(start, placed[following][1])
            following += 1
        if start < region.end and region.path != "[stack]":
            yield start, region.end
