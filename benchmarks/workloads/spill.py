"""More objects than the store has room for: what is put goes to disk meanwhile, and comes back when it is asked for.

Beside it the disk itself: the same bytes written to a file and synced, and read again after the page cache has given
them up.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.workload import Metric, Skipped, Turn, Workload

STORE_BYTES = 256 * 2**20
OBJECT_BYTES = 32 * 2**20
OBJECTS = 20


def measure(turn: Turn) -> None:
    import numpy as np

    system = turn.system
    # The store has its real size in a tiny turn too; fewer bytes would not overflow it.
    value = np.random.default_rng(0).integers(0, 255, OBJECT_BYTES, dtype=np.uint8)
    objects = 10 if turn.tiny else OBJECTS
    start = time.perf_counter()
    handles: list[Any] = []
    for number in range(objects):
        value[:8] = number
        try:
            handles.append(system.put(value))
        except Exception as error:
            raise Skipped(
                f"does not spill: object {number + 1} of {objects} ({OBJECT_BYTES >> 20} MiB each) did not fit into a "
                f"store of {STORE_BYTES >> 20} MiB: {type(error).__name__}"
            ) from error
    turn.record("spill.write", objects * OBJECT_BYTES / (time.perf_counter() - start) / 1e9)
    start = time.perf_counter()
    for number, handle in enumerate(handles):
        found = system.get(handle)
        assert found[0] == number
        assert found[-1] == value[-1]
        del found
    turn.record("spill.read", objects * OBJECT_BYTES / (time.perf_counter() - start) / 1e9)


def measure_limits(turn: Turn) -> None:
    """Write and read as many bytes."""
    data = os.urandom(OBJECT_BYTES)
    objects = 2 if turn.tiny else OBJECTS
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as directory:
        paths = [Path(directory) / str(number) for number in range(objects)]
        start = time.perf_counter()
        for path in paths:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        turn.record("spill.write", objects * OBJECT_BYTES / (time.perf_counter() - start) / 1e9, limit="disk")
        for path in paths:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for path in paths:
            path.read_bytes()
        turn.record("spill.read", objects * OBJECT_BYTES / (time.perf_counter() - start) / 1e9, limit="disk")


WORKLOAD = Workload(
    (
        Metric("spill.write", "640 MB into a store of 256 MiB: put", "GB/s", lower_is_better=False),
        Metric("spill.read", "640 MB into a store of 256 MiB: get again", "GB/s", lower_is_better=False),
    ),
    measure,
    limits=measure_limits,
    rounds=1,
    cap_s=60,
    store_bytes=STORE_BYTES,
)
