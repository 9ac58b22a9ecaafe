"""What processes say to each other about objects: fetching, holding, letting go.

The rules of who keeps what alive are in `objects`; here are the messages. A process answers for the objects that it
owns and asks the owners of those that it borrows.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.client.core.events import ConfirmHold
from atoll.client.core.links import Link, Links, Outbox
from atoll.client.core.objects import ObjectTable
from atoll.client.core.records import FREED, PENDING, STORED
from atoll.client.core.settlement import Settlement, error_payload
from atoll.ids import PROCESS_ID_BYTES
from atoll.protocol.channel_messages import AddHold, DropHolds, FetchObject, HoldAdded, ObjectValue
from atoll.protocol.machine import Peer
from atoll.protocol.messages import DeleteObjects


class Ownership:
    """The conversation with owners and borrowers.

    Args:
        outbox: Where actions go.
        links: The channels to other processes.
        objects: The table.
        settlement: Tells who waits.

    Attributes:
        lost: Called with an owned object that is not where it should be; the composition sets it.
    """

    def __init__(self, outbox: Outbox, links: Links, objects: ObjectTable, settlement: Settlement) -> None:
        self._outbox = outbox
        self._links = links
        self._objects = objects
        self._settlement = settlement
        self._fetches: dict[int, bytes] = {}
        self._holds: dict[int, tuple[bytes, bytes]] = {}
        self._waiting: dict[bytes, list[FetchObject | AddHold]] = {}
        self.lost: Callable[[bytes], None] = lambda _object_id: None

    # ------------------------------------------------------------------------------------- as the borrower

    def fetch(self, object_id: bytes) -> None:
        """Ask the owner for a borrowed object's value, once."""
        entry = self._objects.entries[object_id]
        if entry.fetching or entry.state != PENDING:
            return
        entry.fetching = True
        request = self._outbox.next_request()
        self._fetches[request] = object_id
        self._ask(object_id, FetchObject(request, object_id))

    def report_lost(self, object_id: bytes) -> None:
        """Tell the owner that a borrowed object is not in the store, and wait for its answer."""
        entry = self._objects.entries.get(object_id)
        if entry is None or entry.state != STORED:
            return
        entry.state = PENDING
        entry.value = b""
        entry.fetching = True
        request = self._outbox.next_request()
        self._fetches[request] = object_id
        self._ask(object_id, FetchObject(request, object_id, lost=True))

    def hold(self, object_id: bytes, holder: bytes) -> None:
        """Register a process as a holder at the object's owner; `ConfirmHold` says when the owner knows."""
        if self._objects.owns(object_id):
            self._accept_holder(object_id, holder)
            self._outbox.actions.append(ConfirmHold(object_id, holder))
            return
        request = self._outbox.next_request()
        self._holds[request] = (object_id, holder)
        self._ask(object_id, AddHold(request, object_id, holder))

    def _ask(self, object_id: bytes, message: FetchObject | AddHold) -> None:
        owner = object_id[:PROCESS_ID_BYTES]
        link = self._links.want(owner)
        if link is None:
            self._waiting.setdefault(owner, []).append(message)
        else:
            self._outbox.send(link.peer, message)

    def value_came(self, answer: ObjectValue) -> None:
        """Take an owner's answer to a fetch."""
        object_id = self._fetches.pop(answer.request, None)
        entry = self._objects.entries.get(object_id) if object_id else None
        if object_id is None or entry is None:
            return
        entry.fetching = False
        if answer.location is None:
            self._settlement.broken(object_id, answer.error)
        else:
            self._settlement.resolved(answer.location, [])

    def hold_added(self, answer: HoldAdded) -> None:
        """Take an owner's answer to a registration."""
        found = self._holds.pop(answer.request, None)
        if found is not None:
            self._confirm(*found)

    def _confirm(self, object_id: bytes, holder: bytes) -> None:
        if holder == self._objects.process_id:
            entry = self._objects.entries.get(object_id)
            if entry is not None:
                entry.registrations += 1
            else:  # the last ref here has gone while the owner was being told of it
                self._objects.forgotten_borrowed.append(object_id)
        self._outbox.actions.append(ConfirmHold(object_id, holder))

    # ---------------------------------------------------------------------------------------- as the owner

    def asked(self, peer: Peer, message: FetchObject) -> None:
        """Answer a fetch now, or when the object has a value."""
        entry = self._objects.entries.get(message.object_id)
        if entry is not None and (message.lost or entry.state == FREED):
            self.lost(message.object_id)
        if entry is None:
            text = f"object {message.object_id.hex()} is not known to its owner any more"
            self._outbox.send(peer, ObjectValue(message.request, None, error_payload("ObjectLostError", text)))
        elif entry.state == PENDING:
            entry.askers = [*(entry.askers or ()), (peer, message.request)]
        else:
            self._settlement.answer(peer, message.request, message.object_id, entry)

    def holder_came(self, peer: Peer, message: AddHold) -> None:
        """Register a holder. One that has no channel here gets one, so that its death is noticed."""
        self._accept_holder(message.object_id, message.holder)
        self._outbox.send(peer, HoldAdded(message.request))

    def _accept_holder(self, object_id: bytes, holder: bytes) -> None:
        if holder != self._objects.process_id and self._objects.add_holder(object_id, holder):
            self._links.want(holder)

    def holds_dropped(self, holder: bytes, message: DropHolds) -> None:
        """Take a holder's word that its last refs are gone."""
        for object_id in message.object_ids:
            self._objects.drop_holder(object_id, holder)

    # ------------------------------------------------------------------------------------------- processes

    def channel_opened(self, link: Link) -> None:
        """Say what waited for this channel."""
        for message in self._waiting.pop(link.process_id, ()):
            self._outbox.send(link.peer, message)

    def process_lost(self, process_id: bytes) -> None:
        """A process is gone or cannot be reached: as a holder it holds nothing, as an owner it gives nothing.

        What it owned and put into the store may live on there, adopted by the cluster; the shell finds out when it
        asks the store, so a fetch fails only with the owner's death if the store does not have the object either.
        """
        self._objects.drop_process(process_id)
        self._waiting.pop(process_id, None)
        for request, (object_id, holder) in list(self._holds.items()):
            if object_id[:PROCESS_ID_BYTES] == process_id:
                del self._holds[request]
                self._confirm(object_id, holder)
        for request, object_id in list(self._fetches.items()):
            if object_id[:PROCESS_ID_BYTES] == process_id:
                del self._fetches[request]
        for object_id, entry in self._objects.borrowed_from(process_id):
            entry.registrations = 0
            if entry.state == PENDING:
                text = f"the process that owned object {object_id.hex()} is gone, and the object with it"
                self._settlement.broken(object_id, error_payload("OwnerDiedError", text))

    def let_go(self) -> None:
        """Tell the store and the owners which objects nobody here refers to any more."""
        stored, self._objects.forgotten_stored = self._objects.forgotten_stored, []
        if stored:
            home = self._objects.home
            elsewhere = bool(home) and any(location.node_id != home for location in stored)
            nodes = [location.node_id for location in stored] if elsewhere else []
            self._outbox.tell_agent(DeleteObjects([location.object_id for location in stored], nodes))
        borrowed, self._objects.forgotten_borrowed = self._objects.forgotten_borrowed, []
        by_owner: dict[bytes, list[bytes]] = {}
        for object_id in borrowed:
            by_owner.setdefault(object_id[:PROCESS_ID_BYTES], []).append(object_id)
        for owner, object_ids in by_owner.items():
            link = self._links.by_process.get(owner)
            if link is not None:
                self._outbox.send(link.peer, DropHolds(object_ids))
