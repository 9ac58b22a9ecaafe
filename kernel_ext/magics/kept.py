"""`%%cached`, `%cached`, `%uncache`, `%persist`, `%restore`: what is computed once, and what has a name."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import kept
from atoll.kernel_ext.cached.cell import CachedRun, Wanted
from atoll.kernel_ext.capture import read_cell
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.magics.remote import needed_by
from atoll.kernel_ext.outputs import ShellSink
from atoll.kernel_ext.placing import options_of
from atoll.kernel_ext.views import View

COUNTS = frozenset({"gpu", "gpu_mem", "env", "or", "labels"})
"""Options that a result may depend on: on what it was computed, and with which variables."""


def cached(shell: Any, said: ParsedLine, cell: str) -> None:
    """`%%cached df, model`."""
    engine = current_engine()
    text = read_cell(shell, cell)
    for other, names in needed_by(shell, said, text).items():
        if names:
            raise MagicUsageError(
                f"{names[0]} comes from the background cell {other.name} ({other.record}), and its value is not here "
                f"to be compared: bind it first, {names[0]} = {other.name}[{names[0]!r}]"
            )
    wanted = Wanted(
        said.names,
        said.get("files", ()),
        options_of(said, engine.state),
        tuple((name, texts) for name, texts in sorted(said.texts.items()) if name in COUNTS),
        "fresh" in said.flags,
        "quiet" in said.flags,
    )
    CachedRun(shell, engine, text, wanted).run()


def show_cached(_shell: Any, _said: ParsedLine, _cell: str) -> View:
    """`%cached`."""
    return kept.cached_view(current_engine())


def uncache(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%uncache df`."""
    if not said.names and "all" not in said.flags:
        raise MagicUsageError("%uncache needs a name that a cell has kept, or all: %uncache df")
    ShellSink(shell).text("stdout", kept.uncache(current_engine(), said.names, everything="all" in said.flags) + "\n")


def persist(shell: Any, said: ParsedLine, _cell: str) -> View | None:
    """`%persist df`."""
    if not said.names:
        return kept.names_view(current_engine())
    lines = kept.persist(shell.user_ns, said.names, said.get("as"))
    ShellSink(shell).text("stdout", "".join(f"{line}\n" for line in lines))
    return None


def restore(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%restore df`."""
    lines = kept.restore(current_engine(), shell.user_ns, said.names, said.get("as"))
    ShellSink(shell).text("stdout", "".join(f"{line}\n" for line in lines))
