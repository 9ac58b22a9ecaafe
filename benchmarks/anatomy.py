"""Where the microseconds of a synchronous task go, stage by stage, as they pass.

    python -m benchmarks.anatomy            a table: the 10th percentile and the median of each stage
    python -m benchmarks.anatomy --actor    the same for a call to an actor

The system calls at which a task leaves and enters a process are wrapped, in this process and in the worker, by what
notes the monotonic clock, which Linux keeps the same for all processes. The wrapping costs a little itself.
On a machine that others use as well, the 10th percentile says more than the median.

    client   submit ── send ── wait ──────────────────────────────── poll returns ── finish
    worker                     poll returns ── run ── send ── ...
"""

from __future__ import annotations

import argparse
import bisect
import time
from collections.abc import Callable
from typing import Any

import atoll
from atoll.client.current import current_session

STAGES = [
    "submit",
    "send",
    "worker wakes",
    "worker runs",
    "client wakes",
    "finish",
    "total",
    "waits (beside the worker)",
]

Mark = tuple[str, int]


class _Noted:
    """An object whose named method notes when it is entered and left; all else is passed on.

    Args:
        inner: The socket or epoll.
        method: Which method.
        marks: Where the instants go, in nanoseconds.
    """

    def __init__(self, inner: Any, method: str, marks: list[Mark]) -> None:
        self._inner = inner
        call = getattr(inner, method)

        def noted(*arguments: Any) -> Any:
            marks.append((f"{method} begins", time.monotonic_ns()))
            result = call(*arguments)
            marks.append((f"{method} ends", time.monotonic_ns()))
            return result

        setattr(self, method, noted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def note_calls() -> list[Mark]:
    """Wrap the poll and the sends of this process's session; return the list that fills."""
    marks: list[Mark] = []
    session = current_session()
    session.reactor._epoll = _Noted(session.reactor._epoll, "poll", marks)  # type: ignore[assignment]
    for channel in session._switchboard.channels.values():
        if not channel.control:
            channel.socket = _Noted(channel.socket, "send", marks)  # type: ignore[assignment]
    return marks


class _Probe:
    """What runs in the worker: nothing, and the noting of it."""

    def nothing(self) -> None:
        """Return None."""

    def begin(self) -> None:
        """Note calls from now on."""
        self._marks = note_calls()

    def marks(self) -> list[Mark]:
        """Return what was noted."""
        return self._marks


def _task_calls() -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], list[Mark]]]:
    def begin() -> None:
        import builtins

        builtins.atoll_anatomy = note_calls()  # type: ignore[attr-defined]

    def marks() -> list[Mark]:
        import builtins

        return list(builtins.atoll_anatomy)  # type: ignore[attr-defined]

    nothing, first, last = (atoll.remote(function) for function in (lambda: None, begin, marks))
    return (
        lambda: atoll.get(nothing.remote()),
        lambda: atoll.get(first.remote()),
        lambda: atoll.get(last.remote()),
    )


def _actor_calls() -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], list[Mark]]]:
    actor = atoll.remote(_Probe).remote()
    return (
        lambda: atoll.get(actor.nothing.remote()),
        lambda: atoll.get(actor.begin.remote()),
        lambda: atoll.get(actor.marks.remote()),
    )


def measure(
    call: Callable[[], Any], begin: Callable[[], Any], marks: Callable[[], list[Mark]], count: int
) -> list[dict[str, int]]:
    """Return the stages of `count` calls, in nanoseconds; those in which something else came between are left out."""
    for _ in range(300):
        call()
    begin()
    mine = note_calls()
    begun, ended = [], []
    for _ in range(count):
        begun.append(time.monotonic_ns())
        call()
        ended.append(time.monotonic_ns())
    events = sorted(
        [("client " + name, at) for name, at in mine] + [("worker " + name, at) for name, at in marks()],
        key=lambda mark: mark[1],
    )
    instants = [at for _name, at in events]
    rows = []
    for start, end in zip(begun, ended, strict=True):
        found: dict[str, int] = {}
        for name, at in events[bisect.bisect_left(instants, start) : bisect.bisect_right(instants, end)]:
            found.setdefault(name, at)
        row = _stages(start, end, found)
        if row is not None:
            rows.append(row)
    return rows


def _stages(start: int, end: int, found: dict[str, int]) -> dict[str, int] | None:
    try:
        sent, left = found["client send begins"], found["client send ends"]
        came, answered = found["worker poll ends"], found["worker send begins"]
        waiting, back = found["client poll begins"], found["client poll ends"]
    except KeyError:
        return None
    durations = [
        sent - start,
        left - sent,
        came - sent,
        answered - came,
        back - answered,
        end - back,
        end - start,
        waiting - left,
    ]
    return dict(zip(STAGES, durations, strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actor", action="store_true", help="calls to an actor instead of tasks")
    parser.add_argument("--count", type=int, default=3000, help="how many calls")
    options = parser.parse_args()
    atoll.init()
    rows = measure(*(_actor_calls() if options.actor else _task_calls()), options.count)
    print(f"{len(rows)} of {options.count} calls, microseconds        10th percentile   median")
    for stage in STAGES:
        values = sorted(row[stage] for row in rows)
        print(f"  {stage:34s} {values[len(values) // 10] / 1e3:14.1f} {values[len(values) // 2] / 1e3:12.1f}")
    atoll.shutdown()


if __name__ == "__main__":
    main()
