"""A thin door from ordinary code into the asynchronous one: one event loop on a thread of its own, for the process.

One loop for all calls, so that a sandbox or a model opened in one call can be used in the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end and return its result or raise its exception.

    Works inside a running event loop too (a notebook's). Ctrl-C cancels the coroutine and waits for its clean-up.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, _running_loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        ended.wait(30)
        raise


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="codeact", daemon=True).start()
        return _loop
