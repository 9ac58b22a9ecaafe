"""The shape that every core has: events in, actions out, time as an argument.

A *core* decides; a *shell* carries out. The scheduler, the node agent and the client each have one core, and the
three are built from the same few events and actions, so that one small simulator can run a whole cluster of them
inside a test, on a virtual clock, from one seed:

    bytes ──▶ shell ── Received(peer, message) ──▶ core ── Send(peer, message) ──▶ shell ──▶ bytes
                    ── PeerConnected / PeerLost ─▶      ── PersistRecord, ForkWorker, ... ──▶
                    ── DeadlineReached ──────────▶      next_deadline() tells the shell when to come back

Rules that hold for every core:

* It holds no socket, thread, clock, file or source of randomness. Times are `Instant`s handed in by the caller,
  fresh ids come from an injected generator.
* `handle` returns its actions in the order in which they must be carried out. A `PersistRecord` stands before the
  reply that it guards.
* A peer's bad message yields an error reply and leaves the state as it was. A broken invariant is our own fault
  and raises `InternalError` with the story of the last events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NewType, Protocol, TypeVar

import msgspec

from atoll.exceptions import InternalError

Instant = NewType("Instant", float)
"""A point on a monotonic clock, in seconds. Only differences mean anything."""

Peer = NewType("Peer", int)
"""A connection as a core knows it: a number that its shell never gives out twice."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that has happened. Named in the past tense."""


class Action(msgspec.Struct, frozen=True, gc=False):
    """Something that the shell is to do now. Named in the imperative."""


class PeerConnected(Event, frozen=True):
    """A peer has proved the cluster's key and may speak.

    Attributes:
        peer: Its number from now on.
        role: What it says it is: `client`, `worker`, `agent` or `scheduler`.
        process_id: The id of its process, the same on all its connections.
    """

    peer: Peer
    role: str
    process_id: bytes


class PeerLost(Event, frozen=True):
    """A connection is gone, whichever side closed it. Nothing more comes from it."""

    peer: Peer
    cause: str = ""


class Received(Event, frozen=True):
    """A peer's message, decoded and of a known type, its content not yet believed."""

    peer: Peer
    message: Any


class DeadlineReached(Event, frozen=True):
    """The instant that `next_deadline` named has come."""


class Send(Action, frozen=True):
    """Send a message to a peer, after all that was sent to it before."""

    peer: Peer
    message: Any


class ClosePeer(Action, frozen=True):
    """Close a connection. The core has forgotten the peer already; no `PeerLost` follows."""

    peer: Peer
    cause: str


EventT_contra = TypeVar("EventT_contra", bound=Event, contravariant=True)


class Core(Protocol[EventT_contra]):
    """What a shell and the simulator ask of any core."""

    def handle(self, event: EventT_contra, now: Instant) -> list[Action]:
        """Take one event and return what is to be done about it, in order."""
        ...

    def next_deadline(self) -> Instant | None:
        """Return when `DeadlineReached` is wanted, or None for never."""
        ...

    def check_invariants(self) -> None:
        """Raise `InternalError` if the state contradicts itself. Tests call it after every step."""
        ...

    def statistics(self) -> Any:
        """Return a frozen value that describes the state, for people and for tests."""
        ...


class Story:
    """The last events of a core, told when an invariant breaks.

    Args:
        length: How many events are remembered.

    Attributes:
        events: The last ones, and when they came; the oldest falls out when the story is full.
    """

    def __init__(self, length: int = 64) -> None:
        self.events: deque[tuple[Instant, Event]] = deque(maxlen=length)

    def remember(self, event: Event, now: Instant) -> None:
        """Add an event. A core of which each event is counted in microseconds adds it to `events` itself."""
        self.events.append((now, event))

    def lines(self) -> Iterable[str]:
        """Yield a line for each remembered event, oldest first."""
        return (f"{now:.6f} {event!r}"[:400] for now, event in self.events)

    def broken(self, what: str) -> InternalError:
        """Return the error to raise for a broken invariant, with the story attached."""
        return InternalError(what + "\nThe last events were:\n  " + "\n  ".join(self.lines()))
