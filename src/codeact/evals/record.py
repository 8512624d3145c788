"""Samples on disk: a file that grows by a line with every attempt, and from which an evaluation goes on."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from codeact.errors import TrajectoryError, UsageError
from codeact.evals.sample import Sample


def load(path: Path) -> tuple[dict[str, Sample], int]:
    """The samples of a file by their task, and the bytes that whole lines take: a kill may have torn the last one.

    Raises UsageError where it cannot be read, TrajectoryError naming the line that is no sample.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    whole = data.rfind(b"\n") + 1
    if data and not whole and not data.startswith(b'{"codeact_sample"'):
        raise TrajectoryError(f"{path}, line 1: not a record of samples")
    found: dict[str, Sample] = {}
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as error:
            what = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise TrajectoryError(f"{path}, line {number}: not a record of samples ({what})") from error
        found[sample.task] = sample
    return found, whole


class Record:
    """Samples that are appended to a file, each at once. ``samples`` are those that it held already.

    A file of another model is refused: raises UsageError. Not protected: two writers on one path.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.samples, whole = load(path) if path.exists() and path.stat().st_size else ({}, 0)
        others = {sample.model for sample in self.samples.values()} - {model}
        if others:
            raise UsageError(f"{path} holds attempts of {min(others)}, not of {model}: name another file with --out")
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(whole)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error

    def write(self, sample: Sample) -> None:
        """Append a sample. Raises TrajectoryError where the disk refuses it."""
        self.samples[sample.task] = sample
        try:
            rest = memoryview(sample.model_dump_json().encode("utf-8", "replace") + b"\n")
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise TrajectoryError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
