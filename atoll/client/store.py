"""The client's side of the node's object store: write a value once, read it without a copy.

    put    CreateObject ─▶ memory ─▶ copy ─▶ SealObject        the copy is the only one there is
    get    GetObject ─▶ pinned ─▶ view ─▶ ... ─▶ ReleaseObjects   when the last array made from it is gone

What this process has put it keeps pinned until its last ref is gone, and what it has got until its last view is: in
between, getting it again asks nobody.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from atoll.client.connection import failure
from atoll.client.current import existing_session
from atoll.client.mapping import Copier, Segment, address_of
from atoll.client.private_mapping import PrivateMapping
from atoll.client.reserved import HEADER_BYTES, Reserved
from atoll.exceptions import ClusterLostError, ObjectLostError, ObjectStoreFullError
from atoll.ids import ObjectId
from atoll.protocol import reducers
from atoll.protocol.messages import (
    AbortObject,
    CreateObject,
    DeleteObjects,
    GetObject,
    Message,
    ObjectCreated,
    ObjectFound,
    ObjectSealed,
    ReleaseObjects,
    ReturnPins,
    SealObject,
    SegmentsDestroyed,
)
from atoll.protocol.serialization import Layout, Serialized, deserialize

if TYPE_CHECKING:
    from atoll.client.session import Session

KEPT_DESCRIPTORS = 256
"""Of segments, to map them again. A process may have few in all (1,024 by default), and they are the user's."""

TOUCH_AHEAD_BYTES = 2**20
"""The pages of a larger object are looked up in the background when it is got, not one by one when they are read."""

_encode_layout = msgspec.msgpack.Encoder().encode
_decode_layout = msgspec.msgpack.Decoder(Layout).decode


class _Place:
    """Where a pinned object is.

    Attributes:
        segment: Mapped.
        offset: In the segment.
        layout: How to read it.
        uses: Live views, and one more while `kept`. The agent's pin goes at zero.
        kept: This process has put it and there are refs to it.
    """

    __slots__ = ("kept", "layout", "offset", "segment", "uses")

    def __init__(self, segment: Segment, offset: int, layout: Layout, *, kept: bool) -> None:
        self.segment = segment
        self.offset = offset
        self.layout = layout
        self.uses = 1
        self.kept = kept


class StoreClient:
    """Reads and writes objects in shared memory. Safe to use from several threads.

    Args:
        session: Carries the requests to the node agent.

    Attributes:
        carried: Ids of what the last task has taken, which stays pinned for the next one (`carry`).
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._segments: dict[tuple[int, bool], Segment] = {}
        self._not_mapped: set[int] = set()
        self._places: dict[bytes, _Place] = {}
        self._released: deque[bytes] = deque()
        self.carried: set[bytes] = set()
        self._reserved: dict[int, Reserved] = {}
        self._abandoned: deque[Reserved] = deque()
        self._writers = 0
        self._copier = Copier()
        self._descriptors: dict[int, int] = {}

    def write(self, object_id: bytes, value: Serialized, *, keep: bool, attempt: int = 0) -> int:
        """Write a value and seal it.

        Args:
            object_id: Under which others will ask for it.
            value: What to write.
            keep: Whether this process keeps it pinned until `forget`, to get it back without asking.
            attempt: Of the task whose result it is.

        Returns:
            Its size in bytes.

        Raises:
            ObjectStoreFullError: There is no room for it.
            ObjectLostError: A later attempt of the task writes it, or has.
            ClusterLostError: The agent is gone.
        """
        layout = value.layout()
        try:
            created = self._create(object_id, layout.total_bytes, attempt)
            if created is None:
                return layout.total_bytes
            segment, readable, offset = created
            with self._lock:
                self._writers += 1
            try:
                segment.write(offset, value.data, self._copier)
                for (start, _size), view in zip(layout.buffers, value.buffers, strict=True):
                    segment.write(offset + start, view, self._copier)
            finally:
                with self._lock:
                    self._writers -= 1
            self._seal(object_id, layout, _Place(readable, offset, layout, kept=True) if keep else None)
        except BaseException as error:
            if keep or not isinstance(error, ObjectLostError):  # a later attempt's is not to be given up here
                self.give_up(object_id)
            raise
        return layout.total_bytes

    def give_up(self, object_id: bytes) -> None:
        """Have the store forget an object that was to be written here, written or sealed or neither: an interrupt, say.

        Nobody has a ref to it. Views of it that live keep their pins.
        """
        with self._lock:
            for address, reserved in list(self._reserved.items()):
                if reserved.object_id == object_id:
                    del self._reserved[address]
            place = self._places.get(object_id)
            if place is not None and place.kept:
                place.kept = False
                place.uses -= 1
                if not place.uses:
                    del self._places[object_id]
        for message in (AbortObject(object_id), DeleteObjects([object_id])):
            self._session.tell_agent(message)
        if place is None or not place.uses:  # a seal whose answer has not come may have pinned it
            self._session.tell_agent(ReleaseObjects([object_id]))

    def reserve(self, object_id: ObjectId, size_bytes: int) -> Reserved:
        """Return memory for an array that is written to before it is put. If no array is made over it: `give_up`.

        Raises:
            ObjectStoreFullError: There is no room for it.
            ClusterLostError: The agent is gone.
        """
        created = self._create(object_id, HEADER_BYTES + size_bytes)
        assert created is not None, "an id that was made for it is new"
        segment, readable, offset = created
        reserved = Reserved(object_id, segment, readable, offset, size_bytes, self._reserved_gone)
        with self._lock:
            self._reserved[reserved.address] = reserved
        return reserved

    def _reserved_gone(self, reserved: Reserved) -> None:
        """The last view of reserved memory is gone. Called by the garbage collector."""
        if reserved.owned:
            self._released.append(reserved.object_id)
        else:
            self._abandoned.append(reserved)
            if self._session.reactor.asleep:
                self._session.reactor.wake()

    def hand_over(self, original: Any, value: Serialized) -> tuple[Reserved, int] | None:
        """Seal a value that lies in reserved memory already.

        Args:
            original: The value.
            value: What has become of it.

        Returns:
            Its memory, to be marked as `owned` when the object is, and its size; None if it is to be written as others
            are.
        """
        if not self._reserved or len(value.buffers) != 1 or len(value.data) > HEADER_BYTES:
            return None
        (view,) = value.buffers
        reserved = self._reserved.get(address_of(view))
        if reserved is None or reserved.size_bytes != view.nbytes:
            return None
        arrays = reserved.take(original, view.obj)
        if arrays is None:
            return None
        layout = Layout(len(value.data), [(HEADER_BYTES, view.nbytes)], HEADER_BYTES + view.nbytes)
        place = _Place(reserved.readable, reserved.offset, layout, kept=True)
        place.uses += 1  # the arrays'
        self._reserved.pop(reserved.address, None)  # whatever comes now, it is not handed over again
        reserved.segment.write(reserved.offset, value.data, self._copier)
        self._seal(reserved.object_id, layout, place)
        return reserved, layout.total_bytes

    def _create(self, object_id: bytes, size_bytes: int, attempt: int = 0) -> tuple[Segment, Segment, int] | None:
        """Return where to write an object, where to read it, and the offset. Waits until there is room.

        None if it is there already: its task runs again, for another of its results, and somebody looks at this one.
        """
        request = CreateObject(self._session.next_request(), object_id, size_bytes, attempt)
        answer = self._session.ask_agent(request, timeout_s=None)
        if isinstance(answer, ObjectSealed):
            return None
        created = _expect(answer, ObjectCreated)
        writable = self._segment(created, writable=True)
        writable.touch(self._copier)
        return writable, self._segment(created, writable=False), created.offset

    def _seal(self, object_id: bytes, layout: Layout, place: _Place | None) -> None:
        """Seal what was written; a place keeps it pinned."""
        if place is not None:
            with self._lock:  # before the answer: the agent may ask for the pin at once
                self._places[object_id] = place
        request = self._session.next_request()
        sealed = self._session.ask_agent(SealObject(request, object_id, _encode_layout(layout), place is not None))
        _expect(sealed, ObjectSealed)

    def read(self, object_id: bytes, node_id: bytes = b"") -> Any:
        """Return the value of an object. Its arrays are read-only views of shared memory.

        Args:
            object_id: The object.
            node_id: The node that it was stored on; empty for this one. It is brought here if it is another.

        Raises:
            ObjectLostError: The store does not have it.
            ClusterLostError: The agent is gone.
        """
        with self._lock:
            place = self._places.get(object_id)
            if place is not None:
                place.uses += 1
        if place is None:
            place = self._pin(object_id, node_id)
        released = self._released
        if not place.segment.touched and place.layout.total_bytes >= TOUCH_AHEAD_BYTES:
            place.segment.touch_ahead(self._copier)
        view = place.segment.view(place.offset, place.layout.total_bytes, lambda: released.append(object_id))
        return _load(view, place.layout)

    def _pin(self, object_id: bytes, node_id: bytes) -> _Place:
        request = GetObject(
            self._session.next_request(), object_id, node_id if node_id != self._session.node_id else b""
        )
        try:
            answer = self._session.ask_agent(request, timeout_s=None)
        except BaseException:  # an interrupt, while the object is read back from disk
            self._session.tell_agent(ReleaseObjects([object_id]))
            raise
        if request.request in self._not_mapped:  # it was found and pinned
            self._not_mapped.remove(request.request)
            self._session.tell_agent(ReleaseObjects([object_id]))
        found = _expect(answer, ObjectFound)
        segment = self._segment(found, writable=False)
        place = _Place(segment, found.offset, _decode_layout(found.layout), kept=False)
        with self._lock:
            other = self._places.get(object_id)
            if other is None:
                self._places[object_id] = place
                return place
            other.uses += 1
        self._session.tell_agent(ReleaseObjects([object_id]))  # another thread has pinned it meanwhile: one is enough
        return other

    def _segment(self, answer: ObjectCreated | ObjectFound, *, writable: bool) -> Segment:
        """Return the mapping of a segment. A descriptor that came along was put aside by `take_segment`.

        Raises:
            ClusterLostError: The agent has gone since it answered, and its segments with it.
        """
        with self._lock:
            segment = self._segments.get((answer.segment_id, writable))
        if segment is None:
            raise ClusterLostError("the node agent was lost, and the objects of its store with it")
        return segment

    def take_segment(self, answer: ObjectCreated | ObjectFound, take_descriptor: Callable[[], int]) -> None:
        """Map a segment whose descriptors came with an answer, before anybody acts on the answer; closes them.

        Called by whoever reads the agent's connection, since an answer may be read by another thread than the one
        that waits for it, and a second answer may rely on the first one's descriptor.

        Raises:
            ObjectStoreFullError: The process has no room for the mapping, or may open no more files.
        """
        try:
            self._take_segment(answer, take_descriptor)
        except ObjectStoreFullError:
            if isinstance(answer, ObjectFound):
                self._not_mapped.add(answer.request)
            raise

    def _take_segment(self, answer: ObjectCreated | ObjectFound, take_descriptor: Callable[[], int]) -> None:
        for writable in (True, False) if isinstance(answer, ObjectCreated) else (False,):
            descriptor = take_descriptor()
            try:
                if (answer.segment_id, writable) not in self._segments:  # who writes now may have read there before
                    segment = Segment(descriptor, answer.segment_bytes, writable=writable)
                    with self._lock:
                        self._segments[answer.segment_id, writable] = segment
                        if not writable and len(self._descriptors) < KEPT_DESCRIPTORS:  # `private` maps it again
                            with contextlib.suppress(OSError):  # no more files: what is to be written to is copied
                                self._descriptors[answer.segment_id] = os.dup(descriptor)
            finally:
                os.close(descriptor)

    def private(self, view: memoryview) -> PrivateMapping | None:
        """Map what a view from `read` shows once more, so that it can be written to and the object stays as it is.

        Args:
            view: Contiguous. It, and so the object's pin, lives as long as the mapping.

        Returns:
            None if the view is not of the store, or the process has no room.
        """
        address = address_of(view)
        with self._lock:
            for (segment_id, writable), segment in self._segments.items():
                offset = address - segment.address
                if not writable and offset >= 0 and offset + view.nbytes <= segment.size_bytes:
                    descriptor = self._descriptors.get(segment_id)
                    if descriptor is None:
                        return None
                    try:
                        return PrivateMapping(descriptor, offset, view.nbytes, address, view)
                    except ObjectStoreFullError:
                        return None
        return None

    def forget(self, object_ids: list[bytes]) -> None:
        """Give up what `write` has kept: no ref to these is left. Views that still live keep their pins."""
        with self._lock:
            for object_id in object_ids:
                place = self._places.get(object_id)
                if place is not None and place.kept:
                    place.kept = False
                    self._released.append(object_id)

    def carry(self, object_ids: Sequence[bytes]) -> None:
        """Keep the pins of what a task takes until it is known what the next one takes: often the same.

        Args:
            object_ids: What this task takes; what only the one before it took is let go.
        """
        if not object_ids and not self.carried:
            return
        with self._lock:
            taken = {object_id for object_id in object_ids if object_id in self._places}
            for object_id in taken - self.carried:
                self._places[object_id].uses += 1
            self._released.extend(self.carried - taken)
            self.carried = taken

    @property
    def has_uses(self) -> bool:
        """Whether anything is pinned by a view or a ref that is still there."""
        with self._lock:
            released = Counter(self._released)
            return any(place.uses > released[object_id] for object_id, place in self._places.items())

    @property
    def has_released(self) -> bool:
        """Whether `collect` has something to do."""
        return bool(self._released or self._abandoned)

    def take_news(self, message: Message) -> bool:
        """Take what the agent says unasked; False if it is not for the store. The session's lock is held.

        Nobody here uses a segment that was destroyed: whatever lay in it was neither being written nor pinned.
        """
        if isinstance(message, ReturnPins):
            self.forget(message.object_ids)
        elif isinstance(message, SegmentsDestroyed):
            with self._lock:
                for segment_id in message.segment_ids:
                    descriptor = self._descriptors.pop(segment_id, None)
                    if descriptor is not None:
                        os.close(descriptor)
                    for writable in (True, False):
                        segment = self._segments.pop((segment_id, writable), None)
                        if segment is not None:
                            segment.unmap()
        else:
            return False
        return True

    def collect(self) -> list[Message]:
        """Return what the agent is to be told: which objects' last use is gone."""
        told: list[Message] = []
        while self._abandoned:
            reserved = self._abandoned.popleft()
            object_id: bytes = reserved.object_id
            self._reserved.pop(reserved.address, None)
            told.append(AbortObject(object_id))
            with self._lock:
                place = self._places.pop(object_id, None)
            if place is not None:  # it was being handed over, and that was interrupted: it may be sealed
                told += [DeleteObjects([object_id]), ReleaseObjects([object_id])]
        released = self._released
        if not released:
            return told
        gone = []
        with self._lock:
            while released:
                object_id = released.popleft()
                place = self._places.get(object_id)
                if place is None:  # its writer was interrupted
                    continue
                place.uses -= 1
                if place.uses == 0:
                    del self._places[object_id]
                    gone.append(object_id)
        if gone:
            told.append(ReleaseObjects(gone))
        return told

    def agent_lost(self) -> None:
        """Forget the segments of an agent that is gone: the next one counts its own from 1 again.

        What was read from them, or is being written, stays mapped until nothing uses it any more.
        """
        with self._lock:
            for segment in self._segments.values():
                segment.unmap_when_unused()
            self._segments.clear()
            descriptors, self._descriptors = list(self._descriptors.values()), {}
        for descriptor in descriptors:
            os.close(descriptor)

    def close(self) -> None:
        """Forget everything. Mappings stay as far as somebody still looks at them, or writes."""
        self._copier.close()
        self.collect()
        with self._lock:
            viewed = {id(place.segment) for place in self._places.values() if place.uses > place.kept}
            viewed |= {id(reserved.readable) for reserved in self._reserved.values()}
            kept = {number for (number, _writable), segment in self._segments.items() if id(segment) in viewed}
            for (number, _writable), segment in self._segments.items():
                if number not in kept and not self._writers:
                    segment.unmap()
            self._places.clear()
            self._segments.clear()
            descriptors, self._descriptors = list(self._descriptors.values()), {}
        for descriptor in descriptors:
            os.close(descriptor)


def _find_private(view: memoryview) -> memoryview | None:
    session = existing_session()
    mapping = session.store.private(view) if session is not None else None
    return mapping.take_view() if mapping is not None else None


reducers.find_private = _find_private


def _load(view: memoryview, layout: Layout) -> Any:
    buffers = [view[start : start + size] for start, size in layout.buffers]
    return deserialize(view[: layout.pickle_bytes], buffers)


_Answer = TypeVar("_Answer", ObjectCreated, ObjectSealed, ObjectFound)


def _expect(answer: Message, kind: type[_Answer]) -> _Answer:
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, kind), f"the agent answered {type(answer).__name__}, not {kind.__name__}"
    return answer
