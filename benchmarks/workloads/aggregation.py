"""B4: the results of many functions are brought together: all in one last step, or in packs of K first.

With the functions of a pack on one node, exactly K times fewer bytes reach the last step from other nodes. There is
one machine here, so nothing crosses a network and no network is simulated: the bytes that come into the last step are
counted, and the time is that of one machine.
"""

from __future__ import annotations

from benchmarks import functions
from benchmarks.workload import Metric, NotOffered, Turn, Workload

PARTS = 32
PACK = 4
PART_BYTES = 4 * 10**6


def measure(turn: Turn) -> None:
    system = turn.system
    if not system.has_refs:
        raise NotOffered("refs: every result passes through the client")
    zeros, combine = system.task(functions.zeros), system.task(functions.combine)
    size_bytes = turn.size(PART_BYTES)

    def packed() -> None:
        parts = [zeros(size_bytes) for _ in range(PARTS)]
        packs = [combine(*parts[start : start + PACK]) for start in range(0, PARTS, PACK)]
        turn.record("aggregation.packed_bytes", float(system.get(combine(*packs))[-1]) / 1e6)

    def flat() -> None:
        parts = [zeros(size_bytes) for _ in range(PARTS)]
        turn.record("aggregation.flat_bytes", float(system.get(combine(*parts))[-1]) / 1e6)

    for key, call in {"aggregation.flat": flat, "aggregation.packed": packed}.items():
        turn.record(key, *(took * 1e3 for took in turn.times(call, most=20, within_s=0.6)))


WORKLOAD = Workload(
    (
        Metric("aggregation.flat", "B4: 32 results of 4 MB brought together at once", "ms"),
        Metric("aggregation.packed", "B4: the same in packs of 4", "ms"),
        Metric("aggregation.flat_bytes", "B4: bytes into the last step, at once", "MB"),
        Metric("aggregation.packed_bytes", "B4: bytes into the last step, packed", "MB"),
    ),
    measure,
    rounds=2,
)
