"""What workers ran in the last minutes, for the timeline: bounded in time and in number."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from atoll.protocol.state import SpanState
from atoll.protocol.values import Span
from atoll.scheduler.core.turn import Turn

KEPT_S = 300.0
MAXIMUM_SPANS = 10_000


class SpanTable:
    """Spans by worker and key; a later report replaces an earlier one. Times are wall clock, as workers report them."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._spans: dict[tuple[bytes, int], tuple[bytes, Span]] = {}
        self._running: dict[bytes, dict[int, None]] = {}
        self._calls: dict[bytes, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, node_id: bytes, spans: Iterable[Span]) -> None:
        """Take a report of a node."""
        for span in spans:
            key = (span.worker_id, span.key)
            self._spans.pop(key, None)
            self._spans[key] = (node_id, span)
            running = self._running.setdefault(span.worker_id, {})
            if span.state == "running":
                running[span.key] = None
            else:
                self._count(span)
                running.pop(span.key, None)
                if not running:
                    del self._running[span.worker_id]
        self._forget_old()

    def _count(self, span: Span) -> None:
        """Count what a worker has run. A name in parentheses is not of a user's making."""
        if not span.name.startswith("("):
            count, last = self._calls.get(span.worker_id, (0, 0.0))
            self._calls[span.worker_id] = count + span.count, max(last, span.start + span.duration_s)

    def calls(self, worker_id: bytes) -> tuple[int, float]:
        """Return how many tasks or calls a worker in use has ended, and when the last one ended (wall clock)."""
        return self._calls.get(worker_id, (0, 0.0))

    def worker_done(self, worker_id: bytes, state: str) -> None:
        """A worker's lease is over: what it was said to run ended with it."""
        self._calls.pop(worker_id, None)
        running = self._running.pop(worker_id, None)
        if not running:
            return
        now = self._turn.wall(self._turn.now)
        for key in running:
            entry = self._spans.get((worker_id, key))
            if entry is not None:
                node_id, span = entry
                duration_s = max(span.duration_s, now - span.start)
                ended = msgspec.structs.replace(span, state=state, duration_s=duration_s)
                self._spans[worker_id, key] = (node_id, ended)

    def doing(self, worker_id: bytes) -> str:
        """Return what a worker runs now, or nothing."""
        keys = self._running.get(worker_id)
        if not keys:
            return ""
        entry = self._spans.get((worker_id, next(reversed(keys))))
        return entry[1].name if entry else ""

    def _forget_old(self) -> None:
        oldest = self._turn.wall(self._turn.now) - KEPT_S
        for key, (_node_id, span) in list(self._spans.items()):
            if len(self._spans) <= MAXIMUM_SPANS:
                if span.state == "running":
                    continue
                if span.start + span.duration_s >= oldest:
                    return
            del self._spans[key]
            self._running.get(span.worker_id, {}).pop(span.key, None)

    def states(self) -> list[SpanState]:
        """Return what ended in the last five minutes, in the order of its reports, and what runs now."""
        now = self._turn.wall(self._turn.now)
        return [
            SpanState(
                f"{span.worker_id.hex()}-{span.key}",
                span.worker_id.hex(),
                node_id.hex(),
                span.job.hex(),
                span.name,
                span.start,
                max(span.duration_s, now - span.start) if span.state == "running" else span.duration_s,
                span.count,
                span.state,
                span.task_id.hex(),
            )
            for node_id, span in self._spans.values()
            if span.state == "running" or span.start + span.duration_s >= now - KEPT_S
        ]
