"""`%why`: the reason for a wait, or the place of what runs."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import why
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import ParsedLine
from atoll.kernel_ext.why_view import WhyView


def run(shell: Any, said: ParsedLine, _cell: str) -> WhyView:
    """`%why t42`; without a name, everything that waits."""
    engine = current_engine()
    if said.name is None:
        return WhyView(engine.why_all(), engine.job(), "Nothing waits.")
    return WhyView(why.explain(engine, said.name, shell.user_ns), engine.job())
