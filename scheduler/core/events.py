"""What the scheduler's core hears and says beyond the common events and actions of `atoll.protocol.machine`."""

from __future__ import annotations

from atoll.protocol.machine import Action, Event


class RecordsRestored(Event, frozen=True):
    """The first event of a scheduler: what its predecessor wrote down, empty for a new cluster.

    Attributes:
        records: (table, key, value) of each record.
    """

    records: list[tuple[str, str, bytes]]


class StopAsked(Event, frozen=True):
    """The process was told to end by a signal: the cluster goes with it."""

    cause: str


class PersistRecord(Action, frozen=True):
    """Write a record down, replacing one of the same key, before any later action is carried out."""

    table: str
    key: str
    value: bytes


class RemoveRecord(Action, frozen=True):
    """Remove a record, if it is there, before any later action is carried out."""

    table: str
    key: str


class Warn(Action, frozen=True):
    """Write a line into the scheduler's log for whoever looks for a cause later."""

    text: str


class Exit(Action, frozen=True):
    """Everything that was sent is to be flushed, then the process ends and removes what belongs to the cluster."""

    cause: str
