"""SIMULATED: a process's mappings of shared memory. What `atoll.client.store` does, with counted instead of real bytes.

`Memory` is the shared memory of a node: it knows which object's bytes lie where and who has a view of them, and so
sees at once when bytes are overwritten that somebody still reads, or when a reader finds another object's bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.protocol.messages import (
    AbortObject,
    CreateObject,
    Failed,
    GetObject,
    ObjectCreated,
    ObjectFound,
    ObjectSealed,
    ReleaseObjects,
    SealObject,
)
from tests.sim.programs import Command, Request, Sleep, View
from tests.sim.values import Value, encode, read_value

if TYPE_CHECKING:
    from tests.sim.client_process import ClientProcess


class Extent(msgspec.Struct, frozen=True):
    """A piece of a segment."""

    segment_id: int
    offset: int
    size_bytes: int

    def overlaps(self, other: Extent) -> bool:
        """Whether they share a byte."""
        return (
            self.segment_id == other.segment_id
            and self.offset < other.offset + other.size_bytes
            and other.offset < self.offset + self.size_bytes
        )


class Memory:
    """The shared memory of one agent's life."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self._written: dict[tuple[int, int], tuple[Extent, bytes]] = {}
        self._views: dict[tuple[str, bytes], Extent] = {}

    def write(self, writer: str, extent: Extent, object_id: bytes) -> None:
        """The bytes of an object are written."""
        assert extent.offset + extent.size_bytes <= self.sizes.get(extent.segment_id, 1 << 60), "beyond its segment"
        for (reader, seen), view in self._views.items():
            assert not view.overlaps(extent), (
                f"{writer} writes {object_id.hex()} over {seen.hex()}, which {reader} reads"
            )
        for place, (other, _object_id) in list(self._written.items()):
            if other.overlaps(extent):
                del self._written[place]
        self._written[extent.segment_id, extent.offset] = (extent, object_id)

    def read(self, reader: str, extent: Extent, object_id: bytes) -> None:
        """A reader has a view of an object from now on, until `close_view`."""
        found = self._written.get((extent.segment_id, extent.offset))
        assert found is not None, f"{reader} reads {object_id.hex()} where nothing was written"
        assert found[1] == object_id, f"{reader} reads {object_id.hex()} and finds the bytes of {found[1].hex()}"
        self._views[reader, object_id] = extent

    def copy_out(self, extent: Extent) -> bytes:
        """Return whose bytes lie somewhere; nobody's if they were overwritten meanwhile."""
        found = self._written.get((extent.segment_id, extent.offset))
        return found[1] if found is not None else b""

    def close_view(self, reader: str, object_id: bytes) -> None:
        """The reader looks no more."""
        self._views.pop((reader, object_id), None)

    def check_unused(self, reader: str, segment_id: int) -> None:
        """A segment is given back: its reader looks at nothing in it."""
        for (name, object_id), view in self._views.items():
            assert name != reader or view.segment_id != segment_id, f"{object_id.hex()} lay there, which {name} reads"

    def reader_gone(self, reader: str) -> None:
        """A dead process looks at nothing."""
        for key in [key for key in self._views if key[0] == reader]:
            del self._views[key]


class _Place:
    __slots__ = ("kept", "memory", "uses", "value")

    def __init__(self, value: Value, memory: Memory, *, kept: bool) -> None:
        self.value = value
        self.memory = memory
        self.uses = 1
        self.kept = kept


class SimulatedStore:
    """Reads and writes objects through the process's node agent.

    Args:
        process: Whose.
    """

    def __init__(self, process: ClientProcess) -> None:
        self._process = process
        self._segments: dict[tuple[int, bool], Memory] = {}
        self._places: dict[bytes, _Place] = {}
        self.released: deque[bytes] = deque()

    def take_segment(self, answer: ObjectCreated | ObjectFound, memory: Memory) -> None:
        """Map a segment whose descriptor came with an answer."""
        self._segments[answer.segment_id, False] = memory
        if isinstance(answer, ObjectCreated):
            self._segments[answer.segment_id, True] = memory

    def unmap(self, segment_ids: list[int]) -> None:
        """These segments are no more: nothing that this process has pinned may lie there."""
        for segment_id in segment_ids:
            for writable in (True, False):
                memory = self._segments.pop((segment_id, writable), None)
                if memory is not None:
                    memory.check_unused(self._process.name, segment_id)

    def agent_lost(self) -> None:
        """The agent is gone, and its segments with it; what was read from them stays as it was."""
        self._segments.clear()

    def write(self, value: Value, *, keep: bool, attempt: int = 0) -> Generator[Command, Any, str]:
        """Write a value under the id in its tag and seal it. Returns the error's class, or nothing."""
        process, object_id, size = self._process, value.tag, value.size_bytes
        created = yield Request("agent", lambda number: CreateObject(number, object_id, size, attempt))
        if isinstance(created, Failed):
            return created.kind
        if isinstance(created, ObjectSealed):
            return ""  # it is there, and somebody reads it
        memory = self._segments[created.segment_id, True]
        extent = Extent(created.segment_id, created.offset, size)
        if process.random.random() < process.world.options.failing_writes:
            process.tell("agent", AbortObject(object_id))
            return "SerializationError"
        yield Sleep(size / 4e9)
        memory.write(process.name, extent, object_id)
        sealed = yield Request("agent", lambda number: SealObject(number, object_id, encode(value), keep))
        if isinstance(sealed, Failed):
            return sealed.kind
        assert isinstance(sealed, ObjectSealed), f"a seal is answered by {sealed}"
        if keep:
            self._places[object_id] = _Place(value, memory, kept=True)
            memory.read(process.name, extent, object_id)
        return ""

    def read(
        self, object_id: bytes, node_id: bytes = b""
    ) -> Generator[Command, Any, tuple[str, Value | None, View | None]]:
        """Return error, value and what keeps the value mapped."""
        process = self._process
        place = self._places.get(object_id)
        if place is None:
            where = node_id if node_id != process.node_id else b""
            found = yield Request("agent", lambda number: GetObject(number, object_id, where))
            if isinstance(found, Failed):
                return found.kind, None, None
            memory = self._segments[found.segment_id, False]
            value = read_value(found.layout)
            assert value.tag == object_id, f"{object_id.hex()} was asked for, {value.tag.hex()} came"
            place = self._places.get(object_id)
            if place is not None:  # another program has pinned it meanwhile
                process.tell("agent", ReleaseObjects([object_id]))
                place.uses += 1
            else:
                memory.read(process.name, Extent(found.segment_id, found.offset, found.size_bytes), object_id)
                place = self._places[object_id] = _Place(value, memory, kept=False)
        else:
            place.uses += 1
        return "", place.value, View(process, object_id)

    def forget(self, object_ids: list[bytes]) -> None:
        """No ref is left to what was put here."""
        for object_id in object_ids:
            place = self._places.get(object_id)
            if place is not None and place.kept:
                place.kept = False
                self.released.append(object_id)

    def collect(self) -> list[bytes]:
        """Return the objects whose last use is gone."""
        gone = []
        while self.released:
            object_id = self.released.popleft()
            place = self._places[object_id]
            place.uses -= 1
            if place.uses == 0:
                del self._places[object_id]
                place.memory.close_view(self._process.name, object_id)
                gone.append(object_id)
        return gone

    def close(self) -> None:
        """The process is dead."""
        for memory in {id(memory): memory for memory in self._segments.values()}.values():
            memory.reader_gone(self._process.name)
        for place in self._places.values():
            place.memory.reader_gone(self._process.name)
