"""Bars of tqdm that a cell draws, found without its help: tqdm keeps a list of the bars that are drawn now."""

from __future__ import annotations

import sys
from typing import Any

from atoll.progress_messages import Progress


def progress_of_bars() -> Progress | None:
    """Return how far the outermost bar is, or None if none is drawn. It imports nothing."""
    module = sys.modules.get("tqdm.std")
    bars = getattr(getattr(module, "tqdm", None), "_instances", None)
    if not bars:
        return None
    drawn = [bar for bar in bars.copy() if hasattr(bar, "start_t")]
    if not drawn:
        return None
    bar = min(drawn, key=_depth)
    total = float(bar.total) if bar.total else None
    unit = "" if bar.unit == "it" else str(bar.unit)
    words = [str(bar.desc or "").removesuffix(": "), unit, str(bar.postfix or "")]
    return Progress(float(bar.n), total, " ".join(word for word in words if word))


def _depth(bar: Any) -> int:
    return abs(int(getattr(bar, "pos", 0)))
