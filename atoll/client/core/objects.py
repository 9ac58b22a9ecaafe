"""The objects of a process: their values or places, and who keeps them alive.

An object lives at its owner while one of these holds: the owner has a ref to it, a task that the owner submitted takes
it, an object of the owner's contains it, or another process is registered as its *holder*. Every process counts its
own refs and tells the owner only of the first and the last.

The count is exact because nobody lets go before the next one is known: **whoever sends a ref to a process keeps its
own until the receiver is registered at the owner.**

* A caller keeps the refs in a task's arguments until the task has ended. A worker that still has such a ref when the
  task ends registers itself at the owner, waits for the answer, and only then says that the task has ended.
* A worker that returns a ref registers the caller as a holder, waits for the answer, and then returns.
* A holder that dies is dropped when its connection goes; the owner opens one to each holder for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atoll.client.core.records import FAILED, FREED, INLINE, PENDING, STORED, TOKEN, ObjectEntry, Stream, TaskRecord
from atoll.ids import PROCESS_ID_BYTES, ProcessId
from atoll.protocol.machine import Peer
from atoll.protocol.values import ObjectLocation


class ObjectTable:
    """All objects that a process owns or refers to.

    Args:
        process_id: Of this process.

    Attributes:
        home: The node that this process is on, once it is known.
        several_nodes: Whether something is known to be on another node.
        forgotten_stored: Where owned objects in the store that nobody refers to any more; the composition takes
            them and tells the agent.
        forgotten_tokens: Ids of owned tokens that no handle keeps any more; likewise, for the scheduler.
        forgotten_borrowed: Ids of borrowed objects whose last ref here is gone, each as often as this process was
            registered for it; likewise, for their owners.
        streams: The streams that somebody reads, by their handles' ids.
        dropped_streams: Those that nobody reads any more; likewise.
        dropped: Ids to be released that something inside of the core has let go of; likewise.
        needed: How many tasks that may run again take an object.
        origins: The tasks by which objects in the store can be computed again.
        revived: Owned objects that have no value any more and are referred to again, by a process that was taken for
            dead; the composition has them computed again, or fail.
        forget_origin: Called with the id of an object in `origins` that is forgotten; the composition sets it.
    """

    def __init__(self, process_id: ProcessId) -> None:
        self.process_id = process_id
        self.entries: dict[bytes, ObjectEntry] = {}
        self.home = b""
        self.several_nodes = False
        self.forgotten_stored: list[ObjectLocation] = []
        self.forgotten_tokens: list[bytes] = []
        self.forgotten_borrowed: list[bytes] = []
        self.streams: dict[bytes, Stream] = {}
        self.dropped_streams: list[Stream] = []
        self.dropped: list[bytes] = []
        self.needed: dict[bytes, int] = {}
        self.origins: dict[bytes, bytes] = {}
        self.revived: list[bytes] = []
        self.forget_origin: Callable[[bytes], None] = lambda _object_id: None
        self._unneeded: list[bytes] = []
        self._forgetting = False

    def owns(self, object_id: bytes) -> bool:
        """Whether this process is the object's owner."""
        return object_id[:PROCESS_ID_BYTES] == self.process_id

    def expect(self, object_id: bytes, producer: TaskRecord | None) -> ObjectEntry:
        """Add an object that a task will return, or that is put, with one count for the ref that the caller makes."""
        entry = self.entries[object_id] = ObjectEntry(producer)
        entry.count = 1
        return entry

    def add_token(self, object_id: bytes) -> None:
        """Add an object that has no value and stands for the handles of an actor, with one count for the first."""
        entry = self.entries[object_id] = ObjectEntry()
        entry.state = TOKEN
        entry.count = 1

    def refer(self, object_id: bytes, *, registrations: int = 0) -> ObjectEntry:
        """Count one more ref to an object; one that is not known yet is borrowed from its owner.

        `registrations` says how often the sender has registered this process at the owner for it.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = ObjectEntry()
            if self.owns(object_id):
                self.revived.append(object_id)
        elif entry.state == FREED:
            self._revive(object_id, entry)
        entry.count += 1
        entry.registrations += registrations
        return entry

    def _revive(self, object_id: bytes, entry: ObjectEntry) -> None:
        entry.state = PENDING
        self.revived.append(object_id)

    def put(self, object_id: bytes, value: bytes, contained: list[bytes]) -> None:
        """Add an object of this process whose value stays here, with one count for the ref that the caller makes."""
        entry = self.entries[object_id] = ObjectEntry(state=INLINE, value=value, count=1)
        if contained:
            for inner in contained:
                self.refer(inner, registrations=0 if self.owns(inner) else 1)
            entry.contained = contained

    def release(self, object_id: bytes) -> None:
        """Count one ref less, and forget the object when that was the last of all."""
        entry = self.entries.get(object_id)
        if entry is None:
            stream = self.streams.pop(object_id, None)
            if stream is not None:
                self.dropped_streams.append(stream)
            return
        assert entry.count > 0, f"object {object_id.hex()} is released more often than referred to"
        entry.count -= 1
        if entry.count == 0:
            self.forget_if_unused(object_id, entry)

    def forget_if_unused(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Forget an object that nothing keeps alive, and release what it contains."""
        if entry.count or entry.holders or entry.askers or entry.dependents:
            return
        if self.needed and object_id in self.needed:
            self._give_up_value(object_id, entry)
            return
        del self.entries[object_id]
        if self.owns(object_id):
            if entry.state == STORED:
                self.forgotten_stored.append(self.location(object_id, entry))
            elif entry.state == TOKEN:
                self.forgotten_tokens.append(object_id)
        else:
            self.forgotten_borrowed.extend([object_id] * entry.registrations)
        for inner in entry.contained or ():
            self.release(inner)
        if self.origins and object_id in self.origins:
            self.forget_origin(object_id)

    def _give_up_value(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Keep of an object that only tasks take that may run again what takes no room in the store."""
        if entry.state == PENDING and entry.producer is None and self.owns(object_id):  # its new refs have gone again
            entry.state = FREED
        elif entry.state == STORED and self.owns(object_id):
            self.forgotten_stored.append(self.location(object_id, entry))
            entry.state = FREED
            entry.value = b""
            self.release_contained(entry)

    def release_contained(self, entry: ObjectEntry) -> None:
        """Release what a value contains that is gone."""
        contained, entry.contained = entry.contained, None
        for inner in contained or ():
            self.release(inner)

    def need(self, object_id: bytes) -> None:
        """Note that a task that may run again takes an object."""
        self.needed[object_id] = self.needed.get(object_id, 0) + 1

    def need_no_more(self, object_id: bytes) -> None:
        """Note that such a task is forgotten. Chains of them are as long as users make them: no recursion here."""
        self.needed[object_id] -= 1
        if self.needed[object_id]:
            return
        del self.needed[object_id]
        self._unneeded.append(object_id)
        if self._forgetting:
            return
        self._forgetting = True
        while self._unneeded:
            name = self._unneeded.pop()
            entry = self.entries.get(name)
            if entry is not None:
                self.forget_if_unused(name, entry)
        self._forgetting = False

    def release_dropped(self) -> None:
        """Release what the core itself has let go of."""
        while self.dropped:
            self.release(self.dropped.pop())

    def resolve(self, object_id: bytes, location: ObjectLocation, contained: list[bytes]) -> ObjectEntry | None:
        """Note the value of an object; None if nobody wants it any more.

        A stored value that nobody wants is given back to the store. `contained` refs are counted.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            self.refuse(location, contained)
            return None
        if entry.state in (INLINE, STORED):  # its task ran again for another of its results
            self.refuse_refs(contained)
            return entry
        if location.node_id:
            entry.state = STORED
            entry.value = location
            if location.node_id != self.home and self.home:
                self.several_nodes = True
        else:
            entry.state = INLINE
            entry.value = location.inline
        entry.producer = None
        if contained:
            for inner in contained:
                self.refer(inner, registrations=0 if self.owns(inner) else 1)
            entry.contained = contained
        return entry

    def refuse(self, location: ObjectLocation, contained: list[bytes]) -> None:
        """Give back a value that nobody wants any more: its room, and what holds the refs inside for us."""
        if location.node_id and self.owns(location.object_id):
            self.forgotten_stored.append(location)
        self.refuse_refs(contained)

    def give_back(self, object_id: bytes) -> None:
        """Have the store of this node forget what may lie there under the id of an object without a value there."""
        entry = self.entries.get(object_id)
        if entry is None or entry.state != STORED:
            self.forgotten_stored.append(ObjectLocation(object_id, self.home))

    def refuse_refs(self, contained: list[bytes]) -> None:
        """Give up what this process was registered for with a value that it does not take."""
        self.forgotten_borrowed.extend(inner for inner in contained if not self.owns(inner))

    def fail(self, object_id: bytes, error: bytes) -> ObjectEntry | None:
        """Note that there will be no value. None if nobody wants it any more, or it has one."""
        entry = self.entries.get(object_id)
        if entry is not None and entry.state in (INLINE, STORED):
            return None
        if entry is not None:
            entry.state = FAILED
            entry.value = error
            entry.producer = None
        return entry

    def location(self, object_id: bytes, entry: ObjectEntry | None = None) -> ObjectLocation:
        """Return where a resolved object is, to be sent along with a task."""
        entry = entry or self.entries[object_id]
        if entry.state == STORED:
            assert isinstance(entry.value, ObjectLocation)
            return entry.value
        assert entry.state == INLINE, "a location is asked for only when there is a value"
        assert isinstance(entry.value, bytes)
        return ObjectLocation(object_id=object_id, inline=entry.value)

    def add_holder(self, object_id: bytes, holder: bytes) -> bool:
        """Register a process that has refs to an owned object; False if the object is gone."""
        entry = self.entries.get(object_id)
        if entry is None:
            return False
        if entry.state == FREED:
            self._revive(object_id, entry)
        if entry.holders is None:
            entry.holders = {}
        entry.holders[holder] = entry.holders.get(holder, 0) + 1
        return True

    def drop_holder(self, object_id: bytes, holder: bytes) -> None:
        """Take one registration of a holder away."""
        entry = self.entries.get(object_id)
        if entry is None or not entry.holders or holder not in entry.holders:
            return
        entry.holders[holder] -= 1
        if not entry.holders[holder]:
            del entry.holders[holder]
            self.forget_if_unused(object_id, entry)

    def drop_process(self, holder: bytes) -> None:
        """Take all registrations of a process away: it is gone."""
        for object_id, entry in list(self.entries.items()):
            if entry.holders and entry.holders.pop(holder, None) is not None:
                self.forget_if_unused(object_id, entry)

    def drop_asker(self, peer: Peer) -> None:
        """Forget what a connection has asked for: it is gone."""
        for object_id, entry in list(self.entries.items()):
            if entry.askers:
                entry.askers = [asker for asker in entry.askers if asker[0] != peer] or None
                self.forget_if_unused(object_id, entry)

    def borrowed_from(self, owner: bytes) -> Iterable[tuple[bytes, ObjectEntry]]:
        """Return the objects of another process that this one refers to, as a list that may change meanwhile."""
        return [
            (object_id, entry)
            for object_id, entry in self.entries.items()
            if object_id[:PROCESS_ID_BYTES] == owner and owner != self.process_id
        ]

    def check_invariants(self) -> Iterable[str]:
        """Yield a line for each contradiction."""
        contained: dict[bytes, int] = {}
        for object_id, entry in self.entries.items():
            if entry.count < 0:
                yield f"object {object_id.hex()} has {entry.count} refs"
            if entry.state == PENDING and entry.contained:
                yield f"object {object_id.hex()} contains refs before it has a value"
            for inner in entry.contained or ():
                contained[inner] = contained.get(inner, 0) + 1
        for inner, times in contained.items():
            inner_entry = self.entries.get(inner)
            if inner_entry is None or inner_entry.count < times:
                yield f"object {inner.hex()} is contained {times} times and counted less"
