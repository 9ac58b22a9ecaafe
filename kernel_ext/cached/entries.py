"""What is kept of a cell that ran: its result, what it has shown, what it depends on, who computed it and when.

The entry is one object of the cluster, under a name that tells what it is: `%%cached df, model #3f9a2c1b77aa0e41`. It
is made by the worker, so that the values are written once; the facts that only the kernel knows lie beside it, in a
small file of the session's directory, and with them what `%objects` does not show.

    <session directory>/cached/3f9a2c1b77aa0e41      JSON: Facts
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from atoll.kernel_ext.cached.dependencies import Dependencies
from atoll.kernel_ext.cached.key import CellKey, Part
from atoll.kernel_ext.cached.observed import Observed
from atoll.kernel_ext.cell_messages import CellResult
from atoll.kernel_ext.namespace_pickle import PackedNames

PREFIX = "%%cached "
KEPT_OF_A_CELL = 5
"""So many results of one cell are kept while it is edited; older ones go."""


@dataclass
class CachedCell:
    """A cell's run, as its worker returns it.

    Attributes:
        result: What it has set.
        shown: What it has shown, as it looked at the end: kind and payload.
        observed: What it was seen to read.
    """

    result: CellResult
    shown: list[tuple[str, bytes]] = field(default_factory=list)
    observed: Observed = field(default_factory=Observed)

    @property
    def names(self) -> PackedNames:
        """Where its buffers are; see `buffers.StoredBuffer`."""
        return self.result.names


class Facts(msgspec.Struct, frozen=True):
    """What is known of an entry without loading it.

    Attributes:
        name: In the cluster.
        object_id: Of the entry, in hex: what is said here holds for no other.
        keeps: The names that the cell keeps.
        digest: Of its key, whole.
        parts: Of its key.
        dependencies: What else it depends on.
        notebook: The name of the one that computed it; empty for a kernel without one.
        job: The session that did, in hex.
        computed: When, as `time.time()`.
        seconds: How long it took.
        notes: What it has done that cannot be compared: `network`, `programs`, `random`, `clock`.
    """

    name: str
    object_id: str
    keeps: list[str]
    digest: str
    parts: list[Part]
    dependencies: Dependencies
    notebook: str
    job: str
    computed: float
    seconds: float
    notes: list[str] = []


def name_of(keeps: Iterable[str], key: CellKey) -> str:
    """Return the name of a cell's entry in the cluster."""
    return f"{PREFIX}{', '.join(keeps) or 'output'} #{key.digest[:16]}"


class FactsDirectory:
    """The facts of a cluster's entries.

    Args:
        session_directory: The cluster's; empty for one that keeps none.
    """

    def __init__(self, session_directory: str) -> None:
        self._directory = Path(session_directory) / "cached" if session_directory else None

    def read(self, name: str) -> Facts | None:
        """Return the facts of an entry, or None if they are not known."""
        if self._directory is None:
            return None
        try:
            return msgspec.json.decode((self._directory / _file_of(name)).read_bytes(), type=Facts)
        except (OSError, msgspec.MsgspecError):
            return None

    def all(self, names: Iterable[str] | None = None) -> list[Facts]:
        """Return the facts of all entries, the newest first; those of entries that are gone are removed.

        Args:
            names: Of the entries that there are; None to return all facts and remove none.
        """
        if self._directory is None or not self._directory.is_dir():
            return []
        there = set(names) if names is not None else None
        found = []
        for path in self._directory.iterdir():
            try:
                facts = msgspec.json.decode(path.read_bytes(), type=Facts)
            except (OSError, msgspec.MsgspecError):
                continue
            if there is not None and facts.name not in there:
                path.unlink(missing_ok=True)
                continue
            found.append(facts)
        return sorted(found, key=lambda facts: -facts.computed)

    def write(self, facts: Facts) -> None:
        """Write the facts of an entry: whole or not at all."""
        if self._directory is None:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        draft = self._directory / f".{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(facts))
        draft.replace(self._directory / _file_of(facts.name))

    def remove(self, name: str) -> None:
        """Forget an entry."""
        if self._directory is not None:
            with contextlib.suppress(OSError):
                (self._directory / _file_of(name)).unlink(missing_ok=True)


def _file_of(name: str) -> str:
    digest = name.rpartition("#")[2]
    return digest if digest.isalnum() else "unknown"


def _same_notebook(one: Facts, other: Facts) -> bool:
    return one.job == other.job or bool(one.notebook and one.notebook == other.notebook)


def superseded(known: Iterable[Facts], newest: Facts) -> list[str]:
    """Return which entries go when a cell was computed anew: old results of the same cell of the same notebook."""
    same = [
        facts
        for facts in known
        if facts.keeps == newest.keeps and _same_notebook(facts, newest) and facts.name != newest.name
    ]
    same.sort(key=lambda facts: -facts.computed)
    return [facts.name for facts in same[KEPT_OF_A_CELL - 1 :]]
