"""What one turn of the core has in common: the time it is, what is to be done, and when to come back."""

from __future__ import annotations

from atoll.protocol.machine import Action, Instant, Peer, Send
from atoll.protocol.messages import Failed, Message
from atoll.scheduler.core.events import PersistRecord, RemoveRecord, Warn


class Turn:
    """Passed to every part of the core, so that the order of actions is the order in which they were decided.

    Args:
        wall_offset: What to add to an `Instant` for seconds since 1970; for what people see only.

    Attributes:
        now: The time of the event that is handled.
        started: When the core was made.
        deadlines: Timers by what they are for. Whoever sets one removes it when it has no more use.
        actions: What is to be done, in order.
    """

    def __init__(self, now: Instant, wall_offset: float) -> None:
        self.now = now
        self.started = now
        self.wall_offset = wall_offset
        self.deadlines: dict[str, Instant] = {}
        self.actions: list[Action] = []

    def do(self, action: Action) -> None:
        """Add an action."""
        self.actions.append(action)

    def send(self, peer: Peer | None, message: Message) -> None:
        """Send a message, unless the peer is gone (None)."""
        if peer is not None:
            self.actions.append(Send(peer, message))

    def fail(self, peer: Peer, request: int, kind: str, text: str) -> None:
        """Answer a request with an error."""
        self.actions.append(Send(peer, Failed(request, kind, text)))

    def persist(self, table: str, key: str, value: bytes) -> None:
        """Write a record down before whatever is sent from now on."""
        self.actions.append(PersistRecord(table, key, value))

    def remove_record(self, table: str, key: str) -> None:
        """Remove a record before whatever is sent from now on."""
        self.actions.append(RemoveRecord(table, key))

    def warn(self, text: str) -> None:
        """Add a line to the log."""
        self.actions.append(Warn(text))

    def wall(self, instant: Instant) -> float:
        """Return an instant as seconds since 1970."""
        return instant + self.wall_offset

    def in_s(self, seconds: float) -> Instant:
        """Return the instant that many seconds from now."""
        return Instant(self.now + seconds)

    def set_earlier(self, name: str, when: Instant) -> None:
        """Set a deadline unless one of this name is earlier."""
        known = self.deadlines.get(name)
        if known is None or when < known:
            self.deadlines[name] = when
