"""Who has held and used what: `atoll.usage()`, and the sums that `%usage` and `atoll usage` show.

    atoll.usage()                              each cell, function and actor, all notebooks, since the cluster's start
    atoll.usage(by="notebook", today=True)     each notebook, since midnight

*Held* is what a lease kept from others while it lasted; *used* is what was measured meanwhile. A notebook that holds a
GPU for an hour and computes for a minute has 3600 GPU-seconds held, and 60 used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from atoll.plain_text import duration
from atoll.protocol.usage import UsageReport, UsageRow
from atoll.resources import CPU, GPU, MEMORY, format_bytes

__all__ = ["BY", "Usage", "fetch_report", "sum_up", "usage"]

BY = ("notebook", "cell", "actor")

_HOUR_S = 3600.0


class Usage(NamedTuple):
    """What one notebook, cell or actor has held and used.

    Attributes:
        notebook: Its file.
        cell: The cell or function; empty for an actor, and for a whole notebook.
        actor: The actor; empty if it is none.
        leases: How many leases it has now.
        held: Resource to seconds times the amount: `{"CPU": 12.5, "GPU": 3.0}`; bytes times seconds for memory.
        used: Likewise, as measured: processor time, GPU time, memory in use.
    """

    notebook: str
    cell: str
    actor: str
    leases: int
    held: dict[str, float]
    used: dict[str, float]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.actor or self.cell or self.notebook


def usage(by: str = "cell", *, today: bool = False) -> list[Usage]:
    """Return what notebooks, cells or actors have held and used, the busiest first.

    Args:
        by: `notebook` adds up all of a notebook; `cell` keeps its cells, functions and actors apart; `actor` leaves
            out what is none.
        today: Only what was since midnight; otherwise since the cluster was started.

    Raises:
        ValueError: `by` is something else.
        ClusterLostError: The scheduler is gone.
    """
    if by not in BY:
        raise ValueError(f"by={by!r}: write one of {', '.join(map(repr, BY))}")
    return sum_up(fetch_report().rows, by, today=today)


def fetch_report() -> UsageReport:
    """Return the accounts of the cluster that this process is in.

    Raises:
        ClusterLostError: The scheduler is gone.
    """
    from atoll.client.connection import failure
    from atoll.client.current import current_session
    from atoll.protocol.messages import GetUsage, Usage
    from atoll.protocol.usage import decode_usage

    session = current_session()
    answer = session.ask_scheduler(GetUsage(session.next_request()))
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, Usage), f"the scheduler answered {type(answer).__name__} to GetUsage"
    return decode_usage(answer.usage)


def sum_up(rows: Iterable[UsageRow], by: str, *, today: bool) -> list[Usage]:
    """Return rows added up by notebook, cell or actor, the busiest first; what is nothing is left out."""
    found: dict[tuple[str, str, str], Usage] = {}
    for row in rows:
        if by == "actor" and not row.actor:
            continue
        key = (row.notebook, "", "") if by == "notebook" else (row.notebook, row.cell, row.actor)
        one = found.get(key)
        if one is None:
            one = found[key] = Usage(*key, 0, {}, {})
        held, used = (row.held_today, row.used_today) if today else (row.held, row.used)
        found[key] = one._replace(leases=one.leases + row.leases)
        for sums, amounts in ((one.held, held), (one.used, used)):
            for name, amount in amounts.items():
                sums[name] = sums.get(name, 0.0) + amount
    busy = [each for each in found.values() if each.leases or any(each.held.values()) or any(each.used.values())]
    return sorted(busy, key=lambda each: (-each.held.get(GPU, 0.0), -each.held.get(CPU, 0.0), each[:3]))


HEADINGS = (">CPU HELD", ">CPU USED", ">GPU HELD", ">GPU USED", ">MEMORY USED")


def cells_of(one: Usage) -> list[str]:
    """Return the amounts of a row of a table under `HEADINGS`."""
    return [
        _time(one.held.get(CPU, 0.0)),
        _time(one.used.get(CPU, 0.0)),
        _time(one.held.get(GPU, 0.0)),
        _time(one.used.get(GPU, 0.0)),
        memory_time(one.used.get(MEMORY, 0.0)),
    ]


def _time(seconds: float) -> str:
    return duration(seconds) if seconds > 0 else "-"


def memory_time(byte_seconds: float) -> str:
    """Return memory times time as people read it: `850 MiB·s`, `2.5 GiB·h`."""
    if byte_seconds <= 0:
        return "-"
    if byte_seconds < 2**30 * _HOUR_S / 10:
        return f"{format_bytes(round(byte_seconds))}·s"
    return f"{format_bytes(round(byte_seconds / _HOUR_S))}·h"


def usage_lines(rows: Iterable[UsageRow], by: str, *, today: bool) -> list[str]:
    """Return a table for a terminal, its heading first; nothing below that if there is nothing to tell."""
    from atoll.plain_text import table

    names = ["NOTEBOOK"] if by == "notebook" else ["NOTEBOOK", by.upper() if by == "actor" else "CELL OR ACTOR"]
    return table(
        [*names, ">NOW", *HEADINGS],
        [
            [one.notebook, *([one.name] if by != "notebook" else []), str(one.leases), *cells_of(one)]
            for one in sum_up(rows, by, today=today)
        ],
    )
