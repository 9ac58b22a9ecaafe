"""Who keeps an object alive: three cores that talk with each other, and the count is exact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atoll.client.core.client import ClientCore
from atoll.client.core.events import (
    AgentLinked,
    AnnounceObjects,
    ConfirmHold,
    ConnectFailed,
    ConnectProcess,
    HoldRequested,
    ObjectPut,
    ObjectsWanted,
    RefsReleased,
)
from atoll.client.core.records import FAILED
from atoll.ids import ObjectId, ProcessId
from atoll.protocol.channel_messages import AddHold, DropHolds, FetchObject, HoldAdded
from atoll.protocol.machine import Action, Event, Instant, Peer, PeerConnected, PeerLost, Received, Send
from atoll.protocol.messages import DeleteObjects
from atoll.protocol.values import ObjectLocation
from tests.client.builders import Harness, result_id

AGENT = Peer(1)
NAMES = (b"process0", b"process1", b"process2")


class Town:
    """Processes that reach each other at once, in order, and a node agent that takes notes."""

    def __init__(self) -> None:
        self.cores = [ClientCore(ProcessId(name)) for name in NAMES]
        self.deleted: list[bytes] = []
        self.announced: list[tuple[int, bytes]] = []
        self.confirmed: list[tuple[int, bytes, bytes]] = []
        self.dead: dict[int, None] = {}
        for number in range(len(NAMES)):
            self.handle(number, AgentLinked(AGENT))

    def handle(self, number: int, event: Event) -> None:
        """Give a process an event, and everything that follows to whom it concerns."""
        core = self.cores[number]
        actions = core.handle(event, Instant(0.0))
        core.check_invariants()
        for action in actions:
            self._carry_out(number, action)

    def _carry_out(self, number: int, action: Action) -> None:
        if isinstance(action, ConnectProcess):
            other = NAMES.index(action.process_id)
            if other in self.dead:
                self.handle(number, ConnectFailed(action.process_id, "nobody listens"))
                return
            self.handle(other, PeerConnected(Peer(100 + number), "client", NAMES[number]))
            self.handle(number, PeerConnected(Peer(100 + other), "client", NAMES[other]))
        elif isinstance(action, Send) and action.peer == AGENT:
            assert isinstance(action.message, DeleteObjects)
            self.deleted.extend(action.message.object_ids)
        elif isinstance(action, Send):
            if action.peer - 100 not in self.dead:
                self.handle(action.peer - 100, Received(Peer(100 + number), [action.message]))
        elif isinstance(action, AnnounceObjects):
            self.announced.extend((number, object_id) for object_id in action.object_ids)
        elif isinstance(action, ConfirmHold):
            self.confirmed.append((number, action.object_id, action.holder))

    def put(self, number: int, *, contained: tuple[bytes, ...] = ()) -> ObjectId:
        """Have a process put a large object."""
        core = self.cores[number]
        object_id = ObjectId(NAMES[number] + len(core.objects.entries).to_bytes(12, "big"))
        self.handle(number, ObjectPut(object_id, ObjectLocation(object_id, b"node", 1000), list(contained)))
        return object_id

    def release(self, number: int, *object_ids: bytes) -> None:
        """Drop refs of a process."""
        self.handle(number, RefsReleased(list(object_ids)))

    def kill(self, number: int) -> None:
        """End a process without a word."""
        self.dead[number] = None
        for other, core in enumerate(self.cores):
            if other != number and Peer(100 + number) in core.links.by_peer:
                self.handle(other, PeerLost(Peer(100 + number)))


@pytest.fixture
def town() -> Iterator[Town]:
    """A town in which, at the end, nobody remembers anything that no ref of his explains."""
    made = Town()
    yield made
    for number, core in enumerate(made.cores):
        if number not in made.dead:
            assert all(entry.count or entry.holders for entry in core.objects.entries.values())


def test_the_last_ref_of_the_owner_deletes(town: Town) -> None:
    object_id = town.put(0)
    town.cores[0].objects.refer(object_id)
    town.release(0, object_id)
    assert town.deleted == []
    town.release(0, object_id)
    assert town.deleted == [object_id]


def test_a_registered_holder_keeps_it_after_the_owner_let_go(town: Town) -> None:
    object_id = town.put(0)
    town.cores[1].objects.refer(object_id)
    town.handle(1, HoldRequested(object_id, NAMES[1]))
    assert town.confirmed == [(1, object_id, NAMES[1])]
    town.release(0, object_id)
    assert town.deleted == []
    town.release(1, object_id)
    assert town.deleted == [object_id]


def test_a_ref_that_goes_while_its_holder_is_registered_is_not_held_for_ever() -> None:
    client = Harness()
    owner, borrowed = b"process1", b"process1" + bytes(12)
    client.core.objects.refer(borrowed)
    client.handle(PeerConnected(Peer(7), "client", owner))
    client.handle(HoldRequested(borrowed, client.core.process_id))
    (asked,) = client.sent(AddHold, Peer(7))
    client.handle(RefsReleased([borrowed]))
    assert client.sent(DropHolds, Peer(7)) == [], "the owner does not know of it yet"
    client.handle(Received(Peer(7), [HoldAdded(asked.request)]))
    assert client.sent(DropHolds, Peer(7)) == [DropHolds([borrowed])]


def test_a_third_process_registers_for_another_and_both_count(town: Town) -> None:
    object_id = town.put(0)
    town.cores[1].objects.refer(object_id)
    town.handle(1, HoldRequested(object_id, NAMES[1]))
    town.handle(1, HoldRequested(object_id, NAMES[2]))
    town.cores[2].objects.refer(object_id, registrations=1)
    town.release(0, object_id)
    town.release(1, object_id)
    assert town.deleted == []
    town.release(2, object_id)
    assert town.deleted == [object_id]


def test_two_registrations_of_one_process_need_both_to_be_dropped(town: Town) -> None:
    object_id = town.put(0)
    town.cores[1].objects.refer(object_id)
    town.handle(1, HoldRequested(object_id, NAMES[1]))
    town.cores[1].objects.refer(object_id, registrations=0)
    town.handle(1, HoldRequested(object_id, NAMES[1]))
    town.release(0, object_id)
    town.release(1, object_id)
    assert town.deleted == []
    town.release(1, object_id)
    assert town.deleted == [object_id]


def test_a_holder_that_dies_holds_nothing(town: Town) -> None:
    object_id = town.put(0)
    town.cores[1].objects.refer(object_id)
    town.handle(1, HoldRequested(object_id, NAMES[1]))
    town.release(0, object_id)
    town.kill(1)
    assert town.deleted == [object_id]


def test_a_holder_that_was_dead_before_it_was_registered_holds_nothing(town: Town) -> None:
    object_id = town.put(0)
    town.kill(2)
    town.handle(1, HoldRequested(object_id, NAMES[2]))
    town.release(0, object_id)
    assert town.deleted == [object_id]


def test_an_object_keeps_what_it_contains(town: Town) -> None:
    inner = town.put(0)
    outer = town.put(0, contained=(inner,))
    town.release(0, inner)
    assert town.deleted == []
    town.release(0, outer)
    assert sorted(town.deleted) == sorted([inner, outer])


def test_a_fetch_brings_the_value_or_the_owners_death(town: Town) -> None:
    object_id = town.put(0)
    town.cores[1].objects.refer(object_id)
    town.handle(1, ObjectsWanted([object_id]))
    assert town.announced == [(1, object_id)]
    assert isinstance(town.cores[1].objects.entries[object_id].value, ObjectLocation)

    unknown = ObjectId(NAMES[0] + b"\1" * 12)
    town.cores[2].objects.refer(unknown)
    town.kill(0)
    town.handle(2, ObjectsWanted([unknown]))
    assert town.cores[2].objects.entries[unknown].state == FAILED
    assert (2, unknown) in town.announced


def test_a_borrower_that_dies_while_it_asks_is_forgotten() -> None:
    client = Harness()
    record = client.submit()
    borrower = Peer(300)
    client.handle(PeerConnected(borrower, "client", NAMES[1]))
    client.handle(Received(borrower, [FetchObject(1, result_id(record))]))
    client.handle(RefsReleased([result_id(record)]))
    client.handle(PeerLost(borrower))
    peer = client.grant(1)
    client.answer(peer, 1)
    assert client.core.statistics().objects == 0
