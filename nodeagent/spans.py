"""What a worker has run, for the timeline: recorded as it happens, merged, sent a few times a second.

A worker that runs a hundred thousand tasks a second must not report each. Tasks of one name that follow each other
closely and are short become one span with a count. What runs now is reported too, again and again under one key,
until it ends.

Times are monotonic, so that a clock that is set does not stretch or turn a span; only what is reported is wall clock.
"""

from __future__ import annotations

import itertools
from collections import deque

from atoll.protocol.values import Span

SHORT_S = 0.02
"""Tasks shorter than this, with gaps shorter than this, are merged."""

MAXIMUM_SPANS = 2000
"""Kept between two reports, at most; older ones are dropped."""

Running = tuple[bytes, str, float, bytes, bytes]
"""What runs: its job, name, start, task and code."""


class _Piece:
    """A span that is being made: one task, or several short ones in a row."""

    __slots__ = ("code", "count", "end", "job", "key", "name", "peak_bytes", "short", "start", "state", "task_id")

    def __init__(self, key: int, job: bytes, name: str, start: float, task_id: bytes, code: bytes) -> None:
        self.key = key
        self.task_id = task_id
        self.code = code
        self.peak_bytes = 0
        self.job = job
        self.name = name
        self.start = start
        self.end = start
        self.count = 1
        self.state = "running"
        self.short = False


class SpanRecorder:
    """Records what one worker runs. One thread begins and ends; another may take.

    Args:
        worker_id: Of this worker.
    """

    def __init__(self, worker_id: bytes) -> None:
        self._worker_id = worker_id
        self._keys = itertools.count(1)
        self._finished: deque[_Piece] = deque(maxlen=MAXIMUM_SPANS)
        self._running: Running | None = None
        self._reported: tuple[Running, int] | None = None
        self._last: _Piece | None = None
        self._peak_bytes = 0

    def begin(self, job: bytes, name: str, now: float, task_id: bytes = b"", code: bytes = b"") -> None:
        """Note that a task begins. `now` is monotonic, in seconds; `code` is the digest of what it runs."""
        self._running = (job, name, now, task_id, code)

    def end(self, now: float, *, failed: bool) -> None:
        """Note that it has ended."""
        running = self._running
        if running is None:
            return
        self._running = None
        job, name, start = running[:3]
        state = "failed" if failed else "finished"
        last = self._last
        if (
            last is not None
            and now - start < SHORT_S
            and last.short
            and start - last.end < SHORT_S
            and (last.name, last.job, last.state) == (name, job, state)
        ):
            last.end = now
            last.count += 1
            last.task_id = b""
            return
        self._last = piece = _Piece(self._key(running), *running)
        if self._reported is not None and self._reported[0] is running:
            piece.peak_bytes = self._peak_bytes
        piece.end = now
        piece.state = state
        piece.short = now - start < SHORT_S
        self._finished.append(piece)

    def _key(self, running: Running) -> int:
        """Return a number for a span: the one under which it was reported while it ran, if it was."""
        reported = self._reported
        return reported[1] if reported is not None and reported[0] is running else next(self._keys)

    @property
    def running(self) -> bool:
        """Whether a task runs."""
        return self._running is not None

    def take(self, now: float, wall_offset: float, peak_bytes: int = 0) -> list[Span]:
        """Return what has ended since the last call, and what runs.

        Args:
            now: Monotonic, in seconds.
            wall_offset: What to add to get seconds since 1970.
            peak_bytes: The most memory that this process has used since the last call. It is laid to the charge of
                what has run meanwhile if that was one code; of several, nobody knows whose it was.
        """
        spans = []
        codes = {piece.code for piece in self._finished}
        if self._running is not None:
            codes.add(self._running[4])
        alone = len(codes) == 1
        self._last = None  # what is reported is not extended any more
        while self._finished:
            piece = self._finished.popleft()
            if alone:
                piece.peak_bytes = max(piece.peak_bytes, peak_bytes)
            spans.append(self._span(piece, piece.end, wall_offset))
        running = self._running
        if running is not None:
            key = self._key(running)
            if self._reported is None or self._reported[0] is not running:
                self._reported, self._peak_bytes = (running, key), 0
            if alone:
                self._peak_bytes = max(self._peak_bytes, peak_bytes)
            piece = _Piece(key, *running)
            piece.peak_bytes = self._peak_bytes
            spans.append(self._span(piece, now, wall_offset))
        return spans

    def _span(self, piece: _Piece, end: float, wall_offset: float) -> Span:
        return Span(
            worker_id=self._worker_id,
            job=piece.job,
            name=piece.name,
            start=piece.start + wall_offset,
            duration_s=end - piece.start,
            count=piece.count,
            state=piece.state,
            key=piece.key,
            task_id=piece.task_id,
            code=piece.code,
            peak_bytes=piece.peak_bytes,
        )
