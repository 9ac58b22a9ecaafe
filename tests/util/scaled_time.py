"""`time`, with sleeps that are shorter: for tests of others that sleep for seconds to be on the safe side."""

from __future__ import annotations

import time as real_time
from time import monotonic, perf_counter

__all__ = ["monotonic", "perf_counter", "sleep"]

FACTOR = 1.5


def sleep(seconds: float) -> None:
    """Sleep for a part of what is said."""
    real_time.sleep(seconds / FACTOR)
