"""The cluster's cache: names of objects, and who computes what has no object yet.

    (no name) ── ClaimName(compute) ──▶ computing ── PublishName ──▶ ready ── DropName, ObjectGone ──▶ (no name)
                                            │ AbandonName, or the claimant dies:
                                            └──▶ the next claimant computes; without one, (no name)

Two notebooks that ask at once compute once: whoever claims a name that another computes is answered when that one is
done. An object with a name belongs to the cluster: the node that has it is told so (`AdoptObject`) and answers, before
whoever published it is answered and may let go; and it is told when the last name goes (`DropObject`). Small values
are kept in the location itself, here and in the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from atoll.exceptions import InternalError
from atoll.protocol.machine import Peer
from atoll.protocol.messages import AdoptObject, ClaimName, Done, DropObject, NameClaimed, NameList, PublishName
from atoll.protocol.values import NameInfo, ObjectLocation
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.turn import Turn

TABLE = "names"
MAXIMUM_NAME_LENGTH = 1000
MAXIMUM_INLINE_BYTES = 2**20


class SavedName(msgspec.Struct, frozen=True, array_like=True):
    """A name as the journal keeps it."""

    location: ObjectLocation
    created: float


class _Waiting(NamedTuple):
    peer: Peer
    request: int
    compute: bool


class Name:
    """A name. It has a location, or a peer that computes one, or claimants that wait for its node to come back."""

    __slots__ = ("claim", "claimant", "created", "location", "name", "waiting")

    def __init__(self, name: str, created: float) -> None:
        self.name = name
        self.created = created
        self.location: ObjectLocation | None = None
        self.claimant: Peer | None = None
        self.claim = 0
        self.waiting: deque[_Waiting] = deque()


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SavedName)


class NameTable:
    """All names of the cache.

    Args:
        turn: Where actions go.
        nodes: To tell who has which object.
    """

    def __init__(self, turn: Turn, nodes: NodeTable) -> None:
        self._turn = turn
        self._nodes = nodes
        self._names: dict[str, Name] = {}
        self._by_object: dict[bytes, dict[str, None]] = {}
        self._publishers: dict[bytes, list[tuple[Peer, int]]] = {}

    def __len__(self) -> int:
        return sum(record.location is not None for record in self._names.values())

    def infos(self) -> list[NameInfo]:
        """Return all names, oldest first."""
        return [
            NameInfo(
                record.name,
                "ready" if record.location is not None else "computing",
                _size(record.location),
                record.created,
            )
            for record in self._names.values()
        ]

    # ------------------------------------------------------------------------------------------------ requests

    def claim(self, peer: Peer, message: ClaimName) -> None:
        """Answer with the object, or with the duty to compute it; or let the claimant wait."""
        record = self._names.get(message.name)
        if record is None:
            if message.compute and len(message.name) > MAXIMUM_NAME_LENGTH:
                self._turn.fail(peer, message.request, "ProtocolError", "a name has at most 1000 characters")
            elif message.compute:
                record = self._open(message.name)
                record.claimant, record.claim = peer, message.request
                self._turn.send(peer, NameClaimed(message.request, None, True))
            else:
                self._turn.send(peer, NameClaimed(message.request, None, False))
        elif record.location is not None and self._reachable(record.location):
            self._turn.send(peer, NameClaimed(message.request, record.location, False))
        else:
            record.waiting.append(_Waiting(peer, message.request, message.compute))

    def publish(self, peer: Peer, message: PublishName) -> None:
        """Give the name to an object and answer all who waited for it."""
        location = message.location
        if len(message.name) > MAXIMUM_NAME_LENGTH:
            self._turn.fail(peer, message.request, "ProtocolError", "a name has at most 1000 characters")
            return
        if len(location.inline) > MAXIMUM_INLINE_BYTES:
            self._turn.fail(peer, message.request, "ProtocolError", "a value of more than 1 MiB belongs into the store")
            return
        if not location.inline and self._nodes.get(location.node_id) is None:
            text = f"the object for {message.name!r} is on a node that is not in the cluster"
            self._turn.fail(peer, message.request, "ObjectLostError", text)
            return
        record = self._names.get(message.name) or self._open(message.name)
        record.created = self._turn.wall(self._turn.now)
        self._turn.persist(TABLE, record.name, _encode(SavedName(location, record.created)))
        replaced = record.location
        self._place(record, location)
        if replaced is not None and (location.inline or replaced.object_id != location.object_id):
            self._unplace(record.name, replaced)
        record.claimant = None
        self._answer_waiting(record)
        if location.inline:
            self._turn.send(peer, Done(message.request))
        else:
            self._publishers.setdefault(location.object_id, []).append((peer, message.request))

    def adopted(self, object_id: bytes) -> None:
        """The node has taken an object over: whoever published it may let go of it now, and not earlier."""
        for peer, request in self._publishers.pop(object_id, ()):
            self._turn.send(peer, Done(request))

    def abandon(self, peer: Peer, name: str, request: int = 0) -> None:
        """Who computes gives up: the next who asked computes. Or who waits does: then it waits no more."""
        record = self._names.get(name)
        if record is None:
            return
        if record.claimant == peer and record.location is None and request in (0, record.claim):
            record.claimant = None
            self._pass_on(record)
            return
        for waiting in record.waiting:
            if waiting.peer == peer and waiting.request == request:
                record.waiting.remove(waiting)
                self._turn.send(peer, NameClaimed(request, None, False))
                return

    def drop(self, peer: Peer, request: int, name: str) -> None:
        """Take a name away."""
        record = self._names.get(name)
        if record is None or record.location is None:
            self._turn.fail(peer, request, "ObjectLostError", f"the cluster's cache has no {name!r}")
            return
        self._lose(record)
        self._turn.send(peer, Done(request))

    def list(self, peer: Peer, request: int) -> None:
        """Answer with all names."""
        self._turn.send(peer, NameList(request, self.infos()))

    # -------------------------------------------------------------------------------------------------- events

    def peer_lost(self, peer: Peer) -> None:
        """Whoever is gone neither computes nor waits."""
        for record in list(self._names.values()):
            if any(waiting.peer == peer for waiting in record.waiting):
                record.waiting = deque(waiting for waiting in record.waiting if waiting.peer != peer)
            if record.claimant == peer:
                record.claimant = None
                self._pass_on(record)
        for object_id, publishers in list(self._publishers.items()):
            self._publishers[object_id] = [publisher for publisher in publishers if publisher[0] != peer]
            if not self._publishers[object_id]:
                del self._publishers[object_id]

    def object_gone(self, object_id: bytes) -> None:
        """A node has lost an object: its names go with it."""
        for name in list(self._by_object.get(object_id, {})):
            self._lose(self._names[name])

    def node_came(self, node: Node) -> None:
        """Tell a node which of its objects are the cluster's, and answer who waited for it."""
        for record in list(self._names.values()):
            location = record.location
            if location is not None and not location.inline and location.node_id == node.node_id:
                self._turn.send(node.peer, AdoptObject(location.object_id, record.name))
                self._answer_waiting(record)

    def drop_unreachable(self) -> None:
        """The grace is over: what is on nodes that did not come back is lost."""
        for record in list(self._names.values()):
            if record.location is not None and not self._reachable(record.location):
                self._turn.warn(f"the object named {record.name!r} is lost: its node is gone")
                self._lose(record)

    def unreachable(self) -> bool:
        """Whether some named object is on a node that is not here now."""
        return any(
            record.location is not None and not self._reachable(record.location) for record in self._names.values()
        )

    def restore(self, name: str, value: bytes) -> None:
        """Take up a name from the journal.

        Raises:
            msgspec.DecodeError: The record is of another version, or damaged.
        """
        saved = _decoder.decode(value)
        record = self._open(name)
        record.created = saved.created
        self._place(record, saved.location)

    # --------------------------------------------------------------------------------------------------- inside

    def _open(self, name: str) -> Name:
        record = self._names[name] = Name(name, self._turn.wall(self._turn.now))
        return record

    def moved(self, node_id: bytes, successor: Node) -> None:
        """Another node has taken over the objects of one that leaves."""
        for record in self._names.values():
            location = record.location
            if location is None or location.inline or location.node_id != node_id:
                continue
            record.location = msgspec.structs.replace(location, node_id=successor.node_id)
            self._turn.persist(TABLE, record.name, _encode(SavedName(record.location, record.created)))
            self._turn.send(successor.peer, AdoptObject(location.object_id, record.name))

    def _reachable(self, location: ObjectLocation) -> bool:
        return bool(location.inline) or self._nodes.get(location.node_id) is not None

    def _place(self, record: Name, location: ObjectLocation) -> None:
        record.location = location
        if location.inline:
            return
        self._by_object.setdefault(location.object_id, {})[record.name] = None
        node = self._nodes.get(location.node_id)
        if node is not None:
            self._turn.send(node.peer, AdoptObject(location.object_id, record.name))

    def _unplace(self, name: str, location: ObjectLocation) -> None:
        if location.inline:
            return
        names = self._by_object[location.object_id]
        del names[name]
        if names:
            return
        del self._by_object[location.object_id]
        self.adopted(location.object_id)  # whoever published it has been overtaken
        node = self._nodes.get(location.node_id)
        if node is not None:
            self._turn.send(node.peer, DropObject(location.object_id))

    def _answer_waiting(self, record: Name) -> None:
        while record.waiting:
            waiting = record.waiting.popleft()
            self._turn.send(waiting.peer, NameClaimed(waiting.request, record.location, False))

    def _pass_on(self, record: Name) -> None:
        """Nobody computes the name now: ask the next who would; without one, there is no such name."""
        for waiting in record.waiting:
            if waiting.compute:
                record.waiting.remove(waiting)
                record.claimant, record.claim = waiting.peer, waiting.request
                self._turn.send(waiting.peer, NameClaimed(waiting.request, None, True))
                return
        record.location = None
        self._answer_waiting(record)
        del self._names[record.name]

    def _lose(self, record: Name) -> None:
        assert record.location is not None, "only what is there is lost"
        self._turn.remove_record(TABLE, record.name)
        for peer, request in self._publishers.pop(record.location.object_id, ()):
            text = f"the object for {record.name!r} is lost, or its name was dropped, before the name was given"
            self._turn.fail(peer, request, "ObjectLostError", text)
        self._unplace(record.name, record.location)
        record.location = None
        self._pass_on(record)

    def check_invariants(self, peers: Iterable[Peer]) -> None:
        """Raise `InternalError` if a name is neither ready nor computed, or somebody who is gone computes or waits."""
        alive = dict.fromkeys(peers)
        for record in self._names.values():
            if record.location is None and record.claimant is None:
                raise InternalError(f"nobody computes {record.name!r}")
            if record.location is not None and record.claimant is not None:
                raise InternalError(f"{record.name!r} is ready and computed")
            if record.waiting and record.location is not None and self._reachable(record.location):
                raise InternalError(f"somebody waits for {record.name!r}, which is ready")
            gone = [waiting.peer for waiting in record.waiting if waiting.peer not in alive]
            if gone or (record.claimant is not None and record.claimant not in alive):
                raise InternalError(f"{gone or record.claimant} is gone and concerned with {record.name!r}")
        for object_id, publishers in self._publishers.items():
            if any(peer not in alive for peer, _request in publishers):
                raise InternalError(f"somebody who published {object_id.hex()} is gone and waits")
        for object_id, names in self._by_object.items():
            for name in names:
                record = self._names[name]
                if record.location is None or record.location.object_id != object_id:
                    raise InternalError(f"{name!r} is not a name of {object_id.hex()}")


def _size(location: ObjectLocation | None) -> int:
    if location is None:
        return 0
    return location.size_bytes or len(location.inline)
