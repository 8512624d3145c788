"""What the code made, carried out of the sandbox: the files of its workspace and the pictures that it showed."""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from codeact import raster
from codeact.contracts import Image, Session
from codeact.errors import FileTransferError, SandboxError, UsageError
from codeact.plaintext import short


class Outbox:
    """A directory of this machine, made at once, or None. Raises UsageError where it cannot be written.

    Files of the same name are replaced, but for ``reserved`` ones. Names come from the sandbox: one that leaves the
    directory, through a link or otherwise, is refused.
    """

    def __init__(self, directory: Path | None, reserved: Iterable[Path] = ()) -> None:
        self.directory = directory
        self._taken = {path.resolve() for path in reserved}
        self._shown = 0
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=directory).close()
            except OSError as error:
                raise UsageError(f"nothing can be saved in {directory}: {error.strerror}") from error

    def keep_image(self, image: Image) -> str:
        """Save a picture that was shown; where to, as words to add to a line, empty where there is no directory."""
        if self.directory is None or raster.size(image) is None:
            return ""
        self._shown += 1
        name = f"displayed-{self._shown}.{image.mime.partition('/')[2]}"
        try:
            return f": {self._write(name, base64.b64decode(image.data))}"
        except (FileTransferError, binascii.Error) as error:
            return f" that cannot be saved: {error}"

    async def collect(self, session: Session, given: Sequence[Path] = ()) -> tuple[list[str], list[str]]:
        """Save what the workspace holds beyond the unchanged files that were ``given``.

        The paths (without a directory: the names and sizes) of these files, and one line for each that could not be
        saved.
        """
        found: list[str] = []
        failed: list[str] = []
        inputs = {path.name: path for path in given}
        try:
            listed = await session.files()
        except SandboxError as error:
            return [], [f"the files of the workspace cannot be had: {error}"]
        for file in listed:
            try:
                given_path = inputs.get(file.path)
                if given_path is not None and _holds(given_path, await session.get(file.path)):
                    continue
                if self.directory is None:
                    found.append(f"{short(file.path, 200)} ({size_text(file.size)})")
                else:
                    found.append(self._write(file.path, await session.get(file.path)))
            except SandboxError as error:
                failed.append(short(str(error), 500))
        return found, failed

    def _write(self, name: str, data: bytes) -> str:
        """Write a file whole or not at all, never through a link. Raises FileTransferError."""
        assert self.directory is not None
        parts = PurePosixPath(name).parts
        target = self.directory.joinpath(*parts)
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name:
            raise FileTransferError(f"{name!r} is not saved: its name leaves the directory")
        try:
            home = target.parent.resolve()
            if not home.is_relative_to(self.directory.resolve()):
                raise FileTransferError(f"{name!r} is not saved: a link leads it out of {self.directory}")
            if home / target.name in self._taken:
                raise FileTransferError(f"{name!r} is not saved: there is a file of this run with that name already")
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=home, prefix=".codeact-", delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.chmod(file.name, 0o666 & ~_umask())
                    os.replace(file.name, target)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise FileTransferError(f"{name!r} cannot be saved in {self.directory}: {error.strerror}") from error
        self._taken.add(home / target.name)
        return short(str(target), 500)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def size_text(size: int) -> str:
    """A number of bytes for people."""
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
