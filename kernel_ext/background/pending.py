"""Which names are still to come from background cells: a remote cell that reads one takes it from there.

A background cell's names do not come into the notebook. So `model`, which `fit` sets, is not there when the next cell
is sent; and where the notebook has an older `model`, that is not the one which the reader of the notebook expects. What
counts is the order in which cells were executed: a name belongs to the last cell that sets it, and if that is a
background cell, its readers wait for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.namespace_pickle import Namespace, globals_of

_ABSENT = object()


class _Before:
    """What a name was bound to when a background cell was sent. Keeps nothing alive that can be watched instead."""

    def __init__(self, value: Any) -> None:
        self._strong = value
        self._weak: Any = None
        try:
            self._weak = weakref.ref(value)
        except TypeError:  # numbers, text and containers cannot be watched
            return
        self._strong = None

    def is_still(self, value: Any) -> bool:
        """Whether a value is the one of then."""
        return (self._weak() if self._weak is not None else self._strong) is value


class PendingNames:
    """The background cells of a kernel, by the names that they set."""

    def __init__(self) -> None:
        self._setters: dict[str, tuple[BackgroundCell, _Before]] = {}

    def note(self, cell: BackgroundCell, sets: Iterable[str], namespace: Namespace) -> None:
        """Take a cell that was sent just now.

        Args:
            cell: It.
            sets: The names that its text sets.
            namespace: The notebook's.
        """
        for name in sets:
            self._setters[name] = (cell, _Before(namespace.get(name, _ABSENT)))

    def setter_of(self, name: str, namespace: Namespace) -> BackgroundCell | None:
        """Return the background cell from which a name comes now; None if it is the notebook's own."""
        entry = self._setters.get(name)
        if entry is None:
            return None
        cell, before = entry
        if not before.is_still(namespace.get(name, _ABSENT)):  # it was bound again since, here
            del self._setters[name]
            return None
        if cell.status in ("failed", "cancelled") and name in namespace:
            return None
        return cell

    def needed(self, reads: Iterable[str], namespace: Namespace) -> dict[BackgroundCell, tuple[str, ...]]:
        """Return the cells from which names come that a cell reads, itself or through the notebook's functions.

        A handle that it reads counts too, with no name.
        """
        found: dict[BackgroundCell, dict[str, None]] = {}
        seen: dict[str, None] = {}
        queue = list(reads)
        while queue:
            name = queue.pop()
            if name in seen:
                continue
            seen[name] = None
            value = namespace.get(name)
            cell = self.setter_of(name, namespace)
            if cell is not None:
                found.setdefault(cell, {})[name] = None
            elif isinstance(value, BackgroundCell):
                found.setdefault(value, {})
            else:
                queue += globals_of(value, namespace)
        return {cell: tuple(names) for cell, names in found.items()}
