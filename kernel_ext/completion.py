"""Completion of a cell magic's first line; the body stays Python's."""

from __future__ import annotations

from typing import Any

from atoll.exceptions import AtollError
from atoll.kernel_ext import grammar
from atoll.kernel_ext.engine import current_engine

GRAMMARS = {"%%remote": grammar.REMOTE, "%%actor": grammar.ACTOR}


def install(shell: Any) -> None:
    """Let the shell complete first lines."""
    for magic in GRAMMARS:
        shell.set_hook("complete_command", complete, str_key=magic)


def complete(_shell: Any, event: Any) -> list[str]:
    """IPython's hook.

    Args:
        _shell: IPython's.
        event: Has `line`, the text up to the cursor in its line, and `symbol`, the word there.
    """
    line = str(event.line)
    magic = line.split(maxsplit=1)[0] if line.split() else ""
    schema = GRAMMARS.get(magic)
    if schema is None:
        return []
    values = {"on": _actor_names()} if "on=" in line else {}
    return grammar.completions(schema, line[len(magic) :], values)


def _actor_names() -> list[str]:
    """Return the names of the living actors, if the cluster can be asked."""
    try:
        state = current_engine().state()
    except (AtollError, OSError):
        return []
    return [actor.name for actor in state.actors if actor.name and actor.state != "dead"]
