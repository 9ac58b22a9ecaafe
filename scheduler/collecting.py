"""How often the daemon looks for cycles of objects that nothing needs any more."""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000
"""Objects made and not freed. The core makes no cycles: what is over is freed at once, and what a collection would look
at, again and again, are the tens of thousands of leases that are held."""


def collect_seldom() -> None:
    """Leave alone what there is already, for ever, and look at the rest seldom. To be called once all is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
