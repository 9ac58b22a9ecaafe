"""How long a test waits for what must come: longer than any machine needs, however busy it is with others.

A test waits for what it needs and asserts what it finds. It never asserts how fast that came: what is said of speed is
measured by the benchmarks, beside the limits of the machine in the same run, and what is said of deadlines is tested
on the cores, whose clock is virtual.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 40.0
"""Less than a test may take, so that what did not come is named, and not the test that waited for it."""


def eventually(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It never did.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came about: {what}"
        time.sleep(0.005)
