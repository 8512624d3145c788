"""Ctrl-C, SIGTERM and SIGHUP while an event loop runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The first signal asks what runs to stop, the second cancels this task, the third ends the process at once.

    ``with Interrupts() as interrupts:`` inside a coroutine. ``stop`` is what the first one calls; while it is None,
    nothing can be stopped gently and the first signal cancels. ``patient``: Ctrl-C, however often, only calls ``stop``
    while there is one. Sessions of the local sandbox end with the process; a kernel without a boundary may outlive it
    when it was ended at once.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.stop: Callable[[], object] | None = None
        self.signals: list[int] = []

    @property
    def status(self) -> int:
        """The exit status that tells of the first signal: 130 for Ctrl-C, 143 for SIGTERM; 0 where none came."""
        return 128 + self.signals[0] if self.signals else 0

    def _arrived(self, number: int) -> None:
        if self.patient and number == signal.SIGINT and self.stop is not None:
            self.signals = [number]
            self.stop()
            return
        self.signals.append(number)
        if len(self.signals) > 2:
            os._exit(self.status)
        if len(self.signals) == 1 and self.stop is not None:
            self.stop()
        else:
            self._task.cancel()

    def __enter__(self) -> Interrupts:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._arrived, number)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
        if self.signals:  # the process is on its way out: no further Ctrl-C shall spoil its exit status
            signal.signal(signal.SIGINT, signal.SIG_IGN)
