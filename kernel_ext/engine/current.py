"""Which cluster this process uses."""

from __future__ import annotations

from atoll.kernel_ext.engine.contract import Engine

_engine: Engine | None = None


def current_engine() -> Engine:
    """Return the engine of this process: the same in a kernel and in a worker that asks an actor something."""
    global _engine
    if _engine is None:
        from atoll.kernel_ext.engine.cluster import AtollEngine

        _engine = AtollEngine()
    return _engine


def use_engine(engine: Engine | None) -> None:
    """Set the engine of this process; None for the usual one."""
    global _engine
    _engine = engine
