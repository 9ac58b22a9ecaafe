"""Threads that take results in: they load the values of futures, and run what was to be called when those are done.

Loading may wait for the node agent, which a thread that reads sockets must not do. One thread does it, so that futures
are done in the order in which their values came. A callback that makes a future may be about to wait for it: then one
more thread is there to take that in.

The threads are daemons. An interpreter that ends waits for all others before it calls what `atexit` knows, the end of
the session among it; so a thread that still waited for a value would keep the process as long as its task runs. When
the session ends, whatever a thread waits for ends with it, and then the threads are waited for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

MAXIMUM_THREADS = 32

LEAVE_WITHIN_S = 10.0
"""So long the end of a session waits for callbacks that run on; what they do then is theirs."""


class Loaders:
    """The threads of one session. The first is begun at once: an interpreter that ends begins none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._begin()

    def submit(self, work: Callable[..., object], *args: Any) -> None:
        """Have a thread do something; after the end, this one does it."""
        with self._lock:
            if not self._closed:
                self._work.put((work, args))
                return
        work(*args)

    def expect(self) -> None:
        """Be told that a future is made. One that a thread of ours makes, in a callback, another thread takes in."""
        if threading.current_thread() in self._threads and len(self._threads) < MAXIMUM_THREADS:
            with self._lock:
                if not self._closed:
                    self._begin()

    def close(self, *, wait: bool) -> None:
        """End the threads, after what is to be done by now.

        Args:
            wait: Until they have ended, or `LEAVE_WITHIN_S`.
        """
        with self._lock:
            self._closed = True
            for _thread in self._threads:
                self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join(LEAVE_WITHIN_S)

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=f"atoll-values_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, args = item
            try:
                work(*args)
            except BaseException:  # a user's callback may raise what it likes: the next value is taken in all the same
                threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
            del item, work, args  # while nothing comes, nothing is kept
