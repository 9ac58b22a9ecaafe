"""The thread that follows the background cells of this process: it shows their output and updates their lines.

One thread for all of them, so that dozens cost no more than a few file reads a moment. Records are read twenty times a
second, the cluster is asked once a second, and fewer lines are updated the more there are: a browser is never given
more than about ten updates a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from atoll.exceptions import AtollError
from atoll.kernel_ext.background.line import row_of, why_it_failed
from atoll.kernel_ext.background.live import Page, bundle
from atoll.kernel_ext.background.story import FAILED, CellStory
from atoll.kernel_ext.cell_messages import CellFailure
from atoll.kernel_ext.engine.contract import Glance, Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import with_header
from atoll.kernel_ext.lines import Row
from atoll.kernel_ext.outputs import NoSink, Sink, replay
from atoll.kernel_ext.records import END, LOST, RecordReader

READ_EVERY_S = 0.05
LOOK_EVERY_S = 1.0
FIRST_LOOK_S = 0.4
UPDATES_A_SECOND = 10.0

_logger = logging.getLogger("atoll.cells")


class Shows(Protocol):
    """Shows the line of one cell."""

    def show(self, story: CellStory, row: Row) -> None:
        """Show or update it.

        Args:
            story: What is known of the cell.
            row: The line.
        """
        ...


class Line:
    """The line of one cell where a kernel shows it.

    Args:
        sink: Where that is.
        display_id: Of the display that is updated.
        page: What a page is to know of the place; None where no page is.
    """

    def __init__(self, sink: Sink, display_id: str, page: Page | None = None) -> None:
        self._sink = sink
        self._display_id = display_id
        self._page = page
        self._shown: tuple[str, Row] | None = None

    def show(self, story: CellStory, row: Row) -> None:
        """Show or update it, if it says something new; where nothing can be updated, if the phase is another."""
        said = (story.phase, row)
        if self._shown is None or (said != self._shown if self._sink.updates else said[0] != self._shown[0]):
            data = bundle(story, row, self._page)
            self._sink.display(data, {}, {"display_id": self._display_id}, update=self._shown is not None)
            self._shown = said


class Follower:
    """Follows one cell: reads its record and tells what it says.

    Args:
        story: What is known of it.
        reader: Of its record.
        sink: Takes its output.
        running: For a cell inside of an actor: the call.

    Attributes:
        over: Resolves to the story when the cell has ended.
        lines: Where its line is shown.
    """

    def __init__(self, story: CellStory, reader: RecordReader, sink: Sink, running: Running | None = None) -> None:
        self.story = story
        self.over: Future[CellStory] = Future()
        self.lines: list[Shows] = []
        self._reader = reader
        self._sink = sink
        self._running = running
        self._shown_at = float("-inf")
        self._lock = threading.Lock()

    def add_line(self, line: Shows) -> None:
        """Show its line in a further place."""
        with self._lock:  # it may end now, and be shown for the last time
            self.lines = [*self.lines, line]
            line.show(self.story, row_of(self.story, time.time()))

    def mute(self) -> None:
        """Show nothing any more."""
        self._sink, self.lines = NoSink(), []

    def step(self, glance: Glance | None, now: float) -> None:
        """Do what there is to do.

        Args:
            glance: The cluster's state, if it was asked for.
            now: Wall clock.
        """
        death = self._death(glance)
        self._read(now)  # after it was seen to be dead, so that its last words are heard
        if death and not self.story.ended:
            self.story.lose(death, now)
            self._show_error()

    def _death(self, glance: Glance | None) -> str:
        death = self.story.look(glance) if glance is not None else ""
        if self._running is not None and self._running.future.done():
            error = self._running.future.exception() if not self._running.future.cancelled() else None
            death = f"{type(error).__name__}: {error}" if error is not None else "it was not begun"
        return death

    def _read(self, now: float) -> None:
        try:
            pieces = list(self._reader.pieces())
        except FileNotFoundError:
            self.story.lose("its record is gone, and with it the cluster that kept it", now)
            return
        for _number, kind, payload in pieces:
            self.story.take(kind, payload, now)
            if kind == LOST:
                self._sink.text("stderr", "[the rest was too much to be kept]\n")
            elif kind == END:
                self._show_error()
            else:
                replay(kind, payload, self._sink)

    def _show_error(self) -> None:
        """Show how it failed: nobody may ever ask for its result."""
        if self.story.phase != FAILED:
            return
        ending = self.story.ending
        if ending is None or not ending.where:
            text = why_it_failed(self.story)
            kind, _, rest = text.partition(": ")
            self._sink.error(kind, rest, [text])
            return
        failure = CellFailure(ending.kind, ending.text, ending.traceback)
        lines = with_header(failure, f"%%remote {self.story.name} on {ending.where}")
        self._sink.error(ending.kind, ending.text, lines)

    def show(self, now: float, every_s: float) -> None:
        """Update its lines, if it is time."""
        if self.lines and (self.story.ended or now - self._shown_at >= every_s):
            self._shown_at = now
            row = row_of(self.story, now)
            with self._lock:
                for line in self.lines:
                    line.show(self.story, row)


class Watcher:
    """Follows cells in a thread that is there while there is one.

    Args:
        glance: Asks for the cluster's state.
        read_every_s: How often records are read.
    """

    def __init__(self, glance: Callable[[], Glance], read_every_s: float = READ_EVERY_S) -> None:
        self._glance = glance
        self._read_every_s = read_every_s
        self._lock = threading.Lock()
        self._followers: list[Follower] = []
        self._thread: threading.Thread | None = None
        self._look_at = 0.0

    def follow(self, follower: Follower) -> None:
        """Follow a cell from now on."""
        with self._lock:
            self._followers.append(follower)
            soon = time.monotonic() + FIRST_LOOK_S
            self._look_at = min(self._look_at, soon) if self._thread is not None else soon
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="atoll-cells", daemon=True)
                self._thread.start()

    def leave(self, follower: Follower) -> None:
        """Follow a cell no more, whether or not it has ended."""
        with self._lock, contextlib.suppress(ValueError):
            self._followers.remove(follower)

    def _run(self) -> None:
        while True:
            with self._lock:
                followers = list(self._followers)
                if not followers:
                    self._thread = None
                    return
            glance = self._look()
            now = time.time()
            every_s = max(LOOK_EVERY_S, len(followers) / UPDATES_A_SECOND)
            for follower in followers:
                self._step(follower, glance, now, every_s)
            time.sleep(self._read_every_s)

    def _look(self) -> Glance | None:
        if time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_EVERY_S
        try:
            return self._glance()
        except (AtollError, OSError, TimeoutError):
            return None  # the scheduler may be about to be restarted; what the cells say is read all the same

    def _step(self, follower: Follower, glance: Glance | None, now: float, every_s: float) -> None:
        try:
            follower.step(glance, now)
            follower.show(now, every_s)
        except Exception:  # a page or a kernel that goes away takes the place with it where this cell is shown
            _logger.warning("the output of %s cannot be shown any more", follower.story.record, exc_info=True)
            follower.mute()
        if follower.story.ended:
            self.leave(follower)
            follower.over.set_result(follower.story)


_watcher: Watcher | None = None


def watcher() -> Watcher:
    """Return this process's watcher."""
    global _watcher
    if _watcher is None:
        _watcher = Watcher(lambda: current_engine().glance())
    return _watcher


def _forget() -> None:
    global _watcher
    _watcher = None


os.register_at_fork(after_in_child=_forget)  # whose child has no such thread
