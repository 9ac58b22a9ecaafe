"""What workers ran: how many calls of an actor have ended."""

from __future__ import annotations

from typing import Any

from atoll.protocol.machine import Instant
from atoll.protocol.values import Span
from atoll.scheduler.core.spans import SpanTable
from atoll.scheduler.core.turn import Turn

WORKER = b"w" * 8


def span(key: int, state: str, count: int = 1, **more: Any) -> Span:
    return Span(WORKER, b"j" * 8, more.pop("name", "add"), 10.0, 0.5, count, state, key, **more)


def test_calls_are_counted_when_they_have_ended_and_once() -> None:
    table = SpanTable(Turn(Instant(0), 0.0))
    assert table.calls(WORKER) == (0, 0.0)
    table.add(b"n", [span(1, "running")])
    table.add(b"n", [span(1, "running")])
    assert table.calls(WORKER) == (0, 0.0)
    table.add(b"n", [span(1, "finished"), span(2, "failed"), span(3, "finished", count=998)])
    assert table.calls(WORKER) == (1000, 10.5)
    table.add(b"n", [span(4, "finished", name="(facts)")])
    assert table.calls(WORKER) == (1000, 10.5), "what is not of a user's making does not count"
    table.worker_done(WORKER, "finished")
    assert table.calls(WORKER) == (0, 0.0)
