"""A thin door from ordinary code into the asynchronous one: one event loop on a thread of its own, for the process.

One loop for all calls, so that a sandbox or a model opened in one call can be used in the next.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end and return its result or raise its exception.

    Works inside a running event loop too (a notebook's). Ctrl-C cancels the coroutine and waits for its clean-up.
    Raises RuntimeError inside a coroutine that it runs itself: there it would wait for ever.
    """
    loop = _running_loop()
    if threading.current_thread() is _thread:
        coroutine.close()
        raise RuntimeError("this is called from within itself: await the asynchronous method here (arun for run)")
    ended = threading.Event()

    async def whole() -> T:
        try:
            return await coroutine
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(whole(), loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()  # counts as done at once: only the coroutine itself knows when it has ended
        ended.wait(30)
        raise


def hand_over(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Begin ``coroutine`` on that loop at once. For code with an event loop of its own, which wraps the future."""
    return asyncio.run_coroutine_threadsafe(coroutine, _running_loop())


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():  # a forked child has the loop, not the thread
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="codeact", daemon=True)
            _thread.start()
        return _loop
