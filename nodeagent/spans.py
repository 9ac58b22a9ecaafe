"""What a worker has run, for the timeline: recorded as it happens, merged, sent a few times a second.

A worker that runs a hundred thousand tasks a second must not report each. Tasks of one name that follow each other
closely and are short become one span with a count. What runs now is reported too, again and again under one key,
until it ends.
"""

from __future__ import annotations

import itertools
import time
from collections import deque

from atoll.protocol.values import Span

SHORT_S = 0.02
"""Tasks shorter than this, with gaps shorter than this, are merged."""

MAXIMUM_SPANS = 2000
"""Kept between two reports, at most; older ones are dropped."""


class SpanRecorder:
    """Records what one worker runs. One thread begins and ends; another may take.

    Args:
        worker_id: Of this worker.
    """

    def __init__(self, worker_id: bytes) -> None:
        self._worker_id = worker_id
        self._keys = itertools.count(1)
        self._finished: deque[list[object]] = deque(maxlen=MAXIMUM_SPANS)
        self._running: tuple[int, bytes, str, float] | None = None

    def begin(self, job: bytes, name: str, now: float) -> None:
        """Note that a task begins. `now` is wall clock, in seconds since 1970."""
        self._running = (next(self._keys), job, name, now)

    def end(self, now: float, *, failed: bool) -> None:
        """Note that it has ended."""
        running = self._running
        if running is None:
            return
        self._running = None
        key, job, name, start = running
        state = "failed" if failed else "finished"
        finished = self._finished
        if finished and now - start < SHORT_S:
            last = finished[-1]
            if last[2] == name and last[1] == job and last[6] == state and last[7] and start - last[4] < SHORT_S:  # type: ignore[operator]
                last[4] = now
                last[5] += 1  # type: ignore[operator]
                return
        finished.append([key, job, name, start, now, 1, state, now - start < SHORT_S])

    @property
    def waiting(self) -> bool:
        """Whether there is something to report."""
        return bool(self._finished) or self._running is not None

    @property
    def running(self) -> bool:
        """Whether a task runs."""
        return self._running is not None

    def take(self) -> list[Span]:
        """Return what has ended since the last call, and what runs."""
        spans = []
        while self._finished:
            key, job, name, start, end, count, state, _short = self._finished.popleft()
            spans.append(self._span(key, job, name, start, end - start, count, state))  # type: ignore[operator]
        running = self._running
        if running is not None:
            key, job, name, start = running
            spans.append(self._span(key, job, name, start, time.time() - start, 1, "running"))
        return spans

    def _span(
        self, key: object, job: object, name: object, start: object, duration: float, count: object, state: object
    ) -> Span:
        return Span(
            worker_id=self._worker_id,
            job=job,  # type: ignore[arg-type]
            name=name,  # type: ignore[arg-type]
            start=start,  # type: ignore[arg-type]
            duration_s=max(0.0, duration),
            count=count,  # type: ignore[arg-type]
            state=state,  # type: ignore[arg-type]
            key=key,  # type: ignore[arg-type]
        )
