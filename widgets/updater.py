"""The thread that carries states from a source to the page while the kernel's main thread is busy.

Browser to kernel messages are handled between cells only. So a page that says every few seconds "I am looking" is not
heard while a cell runs, and its silence then means nothing: `Audience` counts silence only while the kernel could
have heard.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from atoll.exceptions import AtollError
from atoll.widgets.changes import ChangeFilter
from atoll.widgets.sources import StateSource

INTERVAL_S = 0.25
SILENT_S = 20.0
"""A page that has not been heard for so long, while it could have been, is gone."""

_AGAIN_S = 1.0
_EXPECTED = ""
_logger = logging.getLogger("atoll.widgets")


class Audience:
    """Who looks, and whether they need the kernel for it. Pure: times are handed in."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[bool, float]] = {}
        self._deaf_at = float("-inf")

    def hear(self, view: str, watch: str, now: float) -> None:
        """Take what a view says: `kernel` (it needs us), `server` (it is served), `nobody` (it is gone)."""
        self._views.pop(_EXPECTED, None)
        if watch == "nobody":
            self._views.pop(view, None)
        else:
            self._views[view] = (watch == "kernel", now)

    def expect(self, now: float) -> None:
        """Somebody is about to look: the widget is being displayed. Counts until a view speaks for itself."""
        self._views[_EXPECTED] = (True, now)

    def deaf(self, now: float) -> None:
        """The kernel is busy and hears nobody."""
        self._deaf_at = now

    def needs_kernel(self, now: float) -> bool:
        """Tell whether any view is still to be served by the kernel; forget those that have been silent too long."""
        since = now - SILENT_S
        self._views = {view: (needs, at) for view, (needs, at) in self._views.items() if max(at, self._deaf_at) > since}
        return any(needs for needs, _at in self._views.values())


class Updater:
    """Runs a source's watch in a daemon thread for as long as somebody needs it.

    Args:
        source: Of the states.
        deliver: Takes `(content, buffers)` for the comm; called in the thread.
        is_busy: Whether the kernel runs a cell now.
    """

    def __init__(
        self,
        source: StateSource,
        deliver: Callable[[dict[str, object], list[bytes]], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self._source = source
        self._deliver = deliver
        self._is_busy = is_busy
        self._lock = threading.Lock()
        self._audience = Audience()
        self._filter = ChangeFilter(INTERVAL_S)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def expect(self) -> None:
        """The widget is being displayed: begin."""
        with self._lock:
            self._audience.expect(time.monotonic())
            self._ensure_running()

    def hear(self, view: str, watch: str) -> None:
        """Take what a view says about itself. Called when the kernel handles its messages."""
        with self._lock:
            self._audience.hear(view, watch, time.monotonic())
            if watch == "kernel":
                self._ensure_running()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread and wait for it. A later `expect` begins anew."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _ensure_running(self) -> None:
        if self.is_running and not self._stopped.is_set():
            return
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopped,), name="atoll-dashboard", daemon=True)
        self._thread.start()

    def _is_wanted(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._is_busy():
                self._audience.deaf(now)
            wanted = self._audience.needs_kernel(now)
            if not wanted:
                # Under the lock, so that whoever is heard from now on starts a new thread.
                self._stopped.set()
            return wanted

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.is_set() and self._is_wanted():
            try:
                self._watch(stopped)
            except AtollError as error:
                self._deliver({"kind": "trouble", "text": str(error)}, [])
            except Exception:
                _logger.exception("the dashboard's updates have ended")
                return
            stopped.wait(_AGAIN_S)

    def _watch(self, stopped: threading.Event) -> None:
        self._filter.forget()
        for state in self._source.watch(INTERVAL_S, stopped):
            if not self._is_wanted():
                return
            update = self._filter.take(state, time.monotonic())
            if update is not None:
                self._deliver({"kind": "update"}, [update])
