"""Objects that lie on other nodes: fetched when somebody here asks for them, taken over when a node leaves.

    GetObject, the object is elsewhere ─▶ LocateNode ─▶ DialAgent ─▶ FetchObject ─▶ ObjectOffered (pinned there)
         ─▶ memory here ─▶ ReadPiece, several at a time ─▶ ObjectPiece ... ─▶ ReleaseObjects ─▶ ObjectFound

A copy that was fetched belongs to who reads it: it goes with its last pin. One that was taken over (`KeepObjects`) is
wanted here as it was there. A node that has left is stood in for by the one that took its objects over: the scheduler
knows, and is asked again when an agent is gone in the middle of a fetch.

The agents speak over one connection, whoever has dialled. To the other one, an agent is a process of its store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.exceptions import ObjectLostError, ObjectStoreFullError
from atoll.nodeagent.core.events import (
    AgentUnreachable,
    DialAgent,
    ObjectRestored,
    RestoreFailed,
    SendPiece,
    SpillPiece,
    WritePiece,
)
from atoll.nodeagent.core.objects import StoredObject
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.store import ObjectStore
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import (
    DeleteObjects,
    EvacuateObjects,
    Failed,
    FetchObject,
    GetObject,
    KeepObjects,
    LocateNode,
    Message,
    NodeLocated,
    ObjectOffered,
    ObjectPiece,
    ObjectsEvacuated,
    ObjectsKept,
    ReadPiece,
    ReleaseObjects,
)

PIECE_BYTES = 2**20
WINDOW = 4
"""Pieces of one object that are asked for at once."""

KEPT_AT_ONCE = 4
"""So many objects of a node that leaves are fetched at once."""

ATTEMPTS = 3
"""So often an object is looked for, when the agent that had it is gone."""


@dataclass(slots=True, eq=False)
class Keep:
    """A wish of a node that leaves.

    Attributes:
        peer: Its agent.
        request: Of the wish.
        node_id: Its node.
        waiting: Objects that are still to be asked for, and their names, the last first.
        left: Objects that are being fetched.
        objects: That are.
        size_bytes: Of them.
        problem: Why some will not be.
    """

    peer: Peer
    request: int
    node_id: bytes
    waiting: list[tuple[bytes, str]]
    left: int = 0
    objects: int = 0
    size_bytes: int = 0
    problem: str = ""


@dataclass(slots=True, eq=False)
class Fetch:
    """An object that is on its way.

    Attributes:
        object_id: The object.
        node_id: Where it is said to be.
        readers: Who asked for it, before there is memory for it here; then the store knows them.
        keep: The wish because of which it stays, if any.
        name: Its name in the cluster's cache.
        attempts: How often it was looked for.
        peer: The agent that it comes from, once it was asked.
        stored: The object here, once it was offered.
        piece: Its memory here, once there is some.
        asked: Bytes that were asked for.
        received: Bytes that have come.
    """

    object_id: bytes
    node_id: bytes
    readers: list[tuple[Peer, int]] = field(default_factory=list)
    keep: Keep | None = None
    name: str = ""
    attempts: int = 0
    peer: Peer | None = None
    stored: StoredObject | None = None
    piece: SpillPiece | None = None
    asked: int = 0
    received: int = 0


class Transfers:
    """All that goes from node to node.

    Args:
        node_id: This node.
        store: Of this node.
        outbox: Where messages go.

    Attributes:
        received_bytes: Of objects that came from other nodes, since the beginning.
        sent_bytes: Of those that went there.
    """

    def __init__(self, node_id: bytes, store: ObjectStore, outbox: Outbox) -> None:
        self._node_id = node_id
        self._store = store
        self._outbox = outbox
        self._links: dict[bytes, Peer] = {}
        self._fetches: dict[bytes, Fetch] = {}
        self._requests: dict[int, tuple[Peer, Fetch, int, int]] = {}
        self._waiting: dict[bytes, list[Fetch | Message]] = {}
        self._targets: dict[bytes, bytes] = {}
        self._evacuating: dict[int, Peer] = {}
        self._last_request = 0
        self.received_bytes = self.sent_bytes = 0
        store.fetch = self.want
        store.incoming = self.memory_ready
        store.lifetimes.incoming_gone = self._gone

    def _next_request(self) -> int:
        self._last_request += 1
        return self._last_request

    # ------------------------------------------------------------------------------------------------ asking

    def want(self, peer: Peer, message: GetObject, now: Instant) -> None:
        """A process here asks for an object of another node."""
        fetch = self._fetches.get(message.object_id)
        if fetch is None:
            fetch = self._fetches[message.object_id] = Fetch(message.object_id, message.node_id)
            self._look_for(fetch)
        fetch.readers.append((peer, message.request))

    def withdraw(self, peer: Peer, object_ids: list[bytes] | None = None) -> None:
        """A process does not want to read these any more, or is gone and wants nothing."""
        for fetch in [self._fetches.get(each) for each in object_ids] if object_ids is not None else [*self._all()]:
            if fetch is None:
                continue
            kept = [reader for reader in fetch.readers if reader[0] != peer]
            if object_ids is not None and len(kept) < len(fetch.readers):  # one wish of several
                wish = next(reader for reader in fetch.readers if reader[0] == peer)
                fetch.readers.remove(wish)
            else:
                fetch.readers = kept
            if not fetch.readers and fetch.keep is None and fetch.stored is None:
                self._end(fetch)

    def _all(self) -> list[Fetch]:
        return list(self._fetches.values())

    def _look_for(self, fetch: Fetch) -> None:
        fetch.attempts += 1
        self._reach(fetch.node_id, fetch)

    def _reach(self, node_id: bytes, what: Fetch | Message) -> None:
        """Send something to the agent of a node, when there is a connection."""
        link = self._links.get(node_id)
        if link is not None:
            self._say(link, what)
            return
        if node_id not in self._waiting:
            self._waiting[node_id] = []
            self._outbox.tell_scheduler(LocateNode(node_id))
        self._waiting[node_id].append(what)

    def _say(self, link: Peer, what: Fetch | Message) -> None:
        if isinstance(what, KeepObjects):
            self._evacuating[what.request] = link
        if not isinstance(what, Fetch):
            self._outbox.send(link, what)
        elif self._fetches.get(what.object_id) is what:
            request = self._next_request()
            what.peer = link
            self._requests[request] = (link, what, 0, 0)
            self._outbox.send(link, FetchObject(request, what.object_id))

    # ------------------------------------------------------------------------------------------- connections

    def scheduler_linked(self) -> None:
        """The scheduler is there, perhaps another one: what it was asked is asked again."""
        for node_id in self._waiting:
            if node_id not in self._targets:
                self._outbox.tell_scheduler(LocateNode(node_id))

    def located(self, message: NodeLocated, now: Instant) -> None:
        """The scheduler says where a node is."""
        if message.asked not in self._waiting:
            return
        if message.node_id == self._node_id:
            for what in self._waiting.pop(message.asked):
                self._is_here(what, now)
        elif not message.node_id:
            text = f"the node {message.asked.hex()} is not in the cluster any more"
            self._give_up(message.asked, text, now, again=False)
        elif message.node_id in self._links:
            link = self._links[message.node_id]
            for what in self._waiting.pop(message.asked):
                self._say(link, what)
        else:
            dialled = message.node_id in self._targets.values()
            self._targets[message.asked] = message.node_id
            if not dialled:
                self._outbox.do(DialAgent(message.node_id, message.agent_socket))

    def _is_here(self, what: Fetch | Message, now: Instant) -> None:
        """This node stands in for the one that was asked for: either the object is here, or it is lost."""
        if isinstance(what, KeepObjects):
            self._evacuated(0, 0, "no other node is there to take its objects over")
        elif isinstance(what, DeleteObjects):
            self._store.lifetimes.delete_elsewhere(what.object_ids, now)
        elif isinstance(what, Fetch) and self._fetches.pop(what.object_id, None) is what:
            for peer, request in what.readers:
                self._store.get(peer, GetObject(request, what.object_id), now)

    def connected(self, peer: Peer, node_id: bytes) -> None:
        """An agent is connected: we dialled it, or it dialled us."""
        self._links[node_id] = peer
        for asked in [asked for asked, target in self._targets.items() if target == node_id]:
            del self._targets[asked]
            for what in self._waiting.pop(asked, ()):
                self._say(peer, what)

    def unreachable(self, event: AgentUnreachable, now: Instant) -> None:
        """An agent does not answer."""
        for asked in [asked for asked, target in self._targets.items() if target == event.node_id]:
            del self._targets[asked]
            self._give_up(asked, event.text, now, again=True)

    def _give_up(self, asked: bytes, text: str, now: Instant, *, again: bool) -> None:
        for what in self._waiting.pop(asked, ()):
            if isinstance(what, KeepObjects):
                self._evacuated(0, 0, text)
            elif isinstance(what, Fetch) and self._fetches.get(what.object_id) is what:
                if again and what.attempts < ATTEMPTS:
                    self._look_for(what)
                else:
                    self._fail(what, ObjectLostError, text, now)

    def lost(self, peer: Peer, now: Instant) -> None:
        """A connection is gone. If it was an agent's, what it was to send is looked for again."""
        for node_id in [node_id for node_id, link in self._links.items() if link == peer]:
            del self._links[node_id]
        for request in [request for request, (link, *_rest) in self._requests.items() if link == peer]:
            del self._requests[request]
        for request in [request for request, link in self._evacuating.items() if link == peer]:
            del self._evacuating[request]
            self._evacuated(0, 0, "the node that was taking its objects over is gone")
        for fetch in self._all():
            if fetch.keep is not None and fetch.keep.peer == peer:
                fetch.keep = None
            if fetch.peer != peer:
                continue
            fetch.peer = None
            if fetch.stored is not None or fetch.attempts >= ATTEMPTS or not fetch.readers:
                self._fail(fetch, ObjectLostError, "its node is gone", now)
            else:
                self._look_for(fetch)
        self.withdraw(peer)

    # ----------------------------------------------------------------------------------------------- fetching

    def offered(self, peer: Peer, message: ObjectOffered, now: Instant) -> None:
        """The other agent has the object in memory: memory is needed here."""
        _link, fetch, _offset, _size = self._requests.pop(message.request, (None, None, 0, 0))
        if fetch is None or fetch.peer != peer or self._fetches.get(fetch.object_id) is not fetch:
            return
        if fetch.keep is None and not fetch.readers:
            self._end(fetch)
            return
        readers, fetch.readers = fetch.readers, []
        stored = self._store.begin_incoming(
            fetch.object_id, message.size_bytes, message.layout, readers, fetch.name if fetch.keep is not None else None
        )
        if isinstance(stored, str):
            fetch.readers = readers
            self._fail(fetch, ObjectStoreFullError, stored, now)
        elif stored is None:  # it has come into being here meanwhile, or nobody wants it any more
            kept, fetch.keep = fetch.keep, None
            if kept is not None:
                self._kept(kept, 0, "")
            self._end(fetch)
            for reader, request in readers:
                self._store.get(reader, GetObject(request, fetch.object_id), now)
        else:
            fetch.stored = stored
            self._store.want_room(stored, now)

    def memory_ready(self, stored: StoredObject, piece: SpillPiece) -> None:
        """There is memory for an object that comes from elsewhere."""
        fetch = self._fetches.get(stored.object_id)
        if fetch is None or fetch.stored is not stored or fetch.piece is not None:
            return
        fetch.piece = piece
        for _number in range(WINDOW):
            self._ask_piece(fetch)

    def _ask_piece(self, fetch: Fetch) -> None:
        stored, peer = fetch.stored, fetch.peer
        assert stored is not None, "pieces are asked for of what was offered"
        size = min(PIECE_BYTES, stored.size_bytes - fetch.asked)
        if peer is None or (size <= 0 and fetch.asked):
            return
        request = self._next_request()
        self._requests[request] = (peer, fetch, fetch.asked, size)
        self._outbox.send(peer, ReadPiece(request, fetch.object_id, fetch.asked, size))
        fetch.asked += max(size, 1)

    def piece_came(self, peer: Peer, message: ObjectPiece, now: Instant) -> None:
        """A part of an object has come."""
        link, fetch, offset, size = self._requests.pop(message.request, (None, None, 0, 0))
        if fetch is None or link != peer or self._fetches.get(fetch.object_id) is not fetch or fetch.piece is None:
            return
        stored = fetch.stored
        assert stored is not None, "what has memory was offered"
        if len(message.data) != size:
            self._fail(fetch, ObjectLostError, "the other node sent a part of another size than was asked for", now)
            return
        self._outbox.do(WritePiece(fetch.piece, offset, message.data))
        fetch.received += size
        self.received_bytes += size
        self._ask_piece(fetch)
        if fetch.received < stored.size_bytes:
            return
        keep, fetch.keep, fetch.stored = fetch.keep, None, None
        self._end(fetch)
        stored.incoming = False
        self._store.restored(ObjectRestored(stored.object_id), now)
        if keep is not None:
            self._kept(keep, stored.size_bytes, "")

    def refused(self, peer: Peer, message: Failed, now: Instant) -> None:
        """The other agent does not have what it was asked for."""
        link, fetch, _offset, _size = self._requests.pop(message.request, (None, None, 0, 0))
        if fetch is not None and link == peer:
            self._fail(fetch, ObjectLostError, message.text, now)

    def _fail(self, fetch: Fetch, kind: type[Exception], text: str, now: Instant) -> None:
        """An object does not come."""
        stored, keep = fetch.stored, fetch.keep
        fetch.stored = fetch.keep = None
        readers, fetch.readers = fetch.readers, []
        self._end(fetch)
        for peer, request in readers:
            self._outbox.send(peer, Failed(request, kind.__name__, f"object {fetch.object_id.hex()}: {text}"))
        if stored is not None and stored.incoming:
            self._store.restore_failed(RestoreFailed(fetch.object_id, text), now)
        if keep is not None:
            self._kept(keep, 0, text)

    def _gone(self, stored: StoredObject, text: str) -> None:
        """The store has given up an object that was on its way: nobody wants it, or there is no room."""
        fetch = self._fetches.get(stored.object_id)
        if fetch is None or fetch.stored is not stored:
            return
        keep, fetch.stored, fetch.keep = fetch.keep, None, None
        self._end(fetch)
        if keep is not None:
            self._kept(keep, 0, text)

    def _end(self, fetch: Fetch) -> None:
        """Forget a fetch; what was pinned for it elsewhere is let go."""
        if self._fetches.get(fetch.object_id) is fetch:
            del self._fetches[fetch.object_id]
        if fetch.peer is not None:
            self._outbox.send(fetch.peer, ReleaseObjects([fetch.object_id]))
            fetch.peer = None

    # ------------------------------------------------------------------------------------------------ sending

    def read_piece(self, peer: Peer, message: ReadPiece) -> None:
        """Another agent reads what it has pinned here."""
        piece = self._store.piece_of(peer, message.object_id)
        inside = piece is not None and 0 <= message.offset <= message.offset + message.size_bytes <= piece.size_bytes
        if piece is None or not inside or message.size_bytes > PIECE_BYTES:
            text = f"object {message.object_id.hex()} is not pinned, or has no such part"
            self._outbox.send(peer, Failed(message.request, ObjectLostError.__name__, text))
            return
        self.sent_bytes += message.size_bytes
        self._outbox.do(SendPiece(peer, message.request, piece, message.offset, message.size_bytes))

    # --------------------------------------------------------------------------------------------- evacuating

    def evacuate(self, message: EvacuateObjects) -> None:
        """This node leaves: another is to take over what is wanted here."""
        wanted = self._store.lifetimes.lasting()
        if not wanted:
            self._evacuated(0, 0, "")
            return
        wish = KeepObjects(
            self._next_request(), [stored.object_id for stored in wanted], [stored.name or "" for stored in wanted]
        )
        self._reach(message.node_id, wish)

    def _evacuated(self, objects: int, size_bytes: int, problem: str) -> None:
        self._outbox.tell_scheduler(ObjectsEvacuated(objects, size_bytes, problem))

    def objects_kept(self, peer: Peer, message: ObjectsKept) -> None:
        """The other node has taken them over, as far as it could."""
        if self._evacuating.get(message.request) == peer:
            del self._evacuating[message.request]
            self._evacuated(message.objects, message.size_bytes, message.problem)

    def keep(self, peer: Peer, node_id: bytes, message: KeepObjects) -> None:
        """Take over the objects of a node that leaves."""
        waiting = list(zip(message.object_ids, message.names, strict=False))
        self._keep_more(Keep(peer, message.request, node_id, waiting[::-1]))

    def _keep_more(self, keep: Keep) -> None:
        """Ask for some more of what is to be kept, or say that all is done."""
        while keep.waiting and keep.left < KEPT_AT_ONCE:
            object_id, name = keep.waiting.pop()
            if self._store.lifetimes.take_over(object_id, name or None):
                keep.objects += 1
            elif object_id in self._fetches:  # a reader's copy is on its way; it is asked for again when that is here
                keep.problem = "some are being read at this moment"
            else:
                keep.left += 1
                self._fetches[object_id] = Fetch(object_id, keep.node_id, keep=keep, name=name)
                self._look_for(self._fetches[object_id])
        if not keep.left and not keep.waiting:
            self._outbox.send(keep.peer, ObjectsKept(keep.request, keep.objects, keep.size_bytes, keep.problem))

    def _kept(self, keep: Keep, size_bytes: int, problem: str) -> None:
        keep.left -= 1
        keep.objects += not problem
        keep.size_bytes += size_bytes
        keep.problem = keep.problem or problem
        self._keep_more(keep)

    def delete(self, object_ids: list[bytes], nodes: list[bytes]) -> None:
        """An owner here wants objects of other nodes no more."""
        by_node: dict[bytes, list[bytes]] = {}
        for object_id, node_id in zip(object_ids, nodes, strict=False):
            if node_id and node_id != self._node_id:
                by_node.setdefault(node_id, []).append(object_id)
        for node_id, theirs in by_node.items():
            self._reach(node_id, DeleteObjects(theirs))

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        for fetch in self._fetches.values():
            if fetch.stored is not None and (not fetch.stored.incoming or fetch.readers):
                return f"object {fetch.object_id.hex()} is on its way, and the store does not know"
        return None
