"""How samples are taken."""

from __future__ import annotations

import time
from collections.abc import Callable


def times_us(call: Callable[[], object], count: int, *, warm_up: int) -> list[float]:
    """Return how many microseconds each of so many calls took, after some that do not count."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return times


def rate_per_s(call: Callable[[int], object], count: int) -> float:
    """Return how many calls a second are done when so many are submitted at once."""
    start = time.perf_counter()
    call(count)
    return count / (time.perf_counter() - start)
