"""The room of the magics: thin functions between what a line says and what the other modules do.

Owns: the table of the magics (`MAGICS`), their registration, and for each a function that reads what was said and
calls what does it.

Never: reads a line itself (`grammar` does), analyses or packs cells (`capture`), talks to the cluster (`engine`).

In: the shell, a `ParsedLine`, a cell's text. Out: what the user's names become, what is shown.

A new magic is a `Grammar`, a function and a line in the table; help and completion follow.
"""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import completion, defaults, grammar
from atoll.kernel_ext.background.kernel import forget_cells
from atoll.kernel_ext.magics import actor, kept, remote, shown, views, why
from atoll.kernel_ext.magics.table import Magic, register, unregister

__all__ = ["MAGICS", "Magic", "install", "uninstall"]

MAGICS = (
    Magic(grammar.REMOTE, remote.run),
    Magic(grammar.DEFAULTS, remote.set_defaults),
    Magic(grammar.ACTOR, actor.make),
    Magic(grammar.BIND, actor.bind),
    Magic(grammar.CACHED, kept.cached),
    Magic(grammar.CACHED_VIEW, kept.show_cached),
    Magic(grammar.UNCACHE, kept.uncache),
    Magic(grammar.PERSIST, kept.persist),
    Magic(grammar.RESTORE, kept.restore),
    Magic(grammar.LOGS, shown.logs),
    Magic(grammar.ATTACH, shown.attach),
    Magic(grammar.TRACEBACK, shown.traceback),
    Magic(grammar.WHY, why.run),
    Magic(grammar.CLUSTER, views.cluster),
    Magic(grammar.JOBS, views.jobs),
    Magic(grammar.ACTORS, views.actors),
    Magic(grammar.OBJECTS, views.objects),
    Magic(grammar.GPUS, views.gpus),
    Magic(grammar.USAGE, views.usage),
    Magic(grammar.DASHBOARD, views.dashboard),
)


def install(shell: Any) -> None:
    """Add the magics to a shell, with the completion of their lines."""
    defaults.forget()
    register(shell, MAGICS)
    completion.install(shell, tuple(magic.grammar for magic in MAGICS))


def uninstall(shell: Any) -> None:
    """Take them away. What runs, runs on."""
    unregister(shell, MAGICS)
    forget_cells(shell)
    completion.uninstall(shell)
