"""Control messages between processes of a node and its agent about objects in shared memory. Part of `messages`."""

from __future__ import annotations

from atoll.protocol.message import Message


class AttachProcess(Message, frozen=True):
    """A client or worker will use the store. Answered by `ProcessAttached`."""

    request: int
    process_id: bytes
    pid: int


class ProcessAttached(Message, frozen=True):
    """The answer: the node, and how many bytes its store holds at most."""

    request: int
    node_id: bytes
    store_capacity_bytes: int


class CreateObject(Message, frozen=True):
    """Ask for memory to write an object into. Answered by `ObjectCreated`, or `Failed` if there is no room.

    The answer comes when there is room: while others' objects are spilled, it waits. `attempt` is that of the task
    whose result it is: one that a later attempt has begun to write is not replaced.
    """

    request: int
    object_id: bytes
    size_bytes: int
    attempt: int = 0


class ObjectCreated(Message, frozen=True):
    """Write at `offset` of the segment. The segment's descriptor comes along if the peer has none to write with.

    Attributes:
        request: Of the `CreateObject`.
        segment_id: Known to the peer by this number from now on.
        segment_bytes: The size to map.
        offset: Where the object begins, aligned to 64.
        has_descriptor: Whether descriptors travel with this message: one to write with, and then one to read with.
    """

    request: int
    segment_id: int
    segment_bytes: int
    offset: int
    has_descriptor: bool


class SealObject(Message, frozen=True):
    """The bytes are written; nobody changes them any more. Answered by `ObjectSealed`.

    `layout` says how to read the object (`atoll.protocol.serialization.Layout`); it is opaque to the agent. The
    sealing process keeps a pin if `pin` is set.
    """

    request: int
    object_id: bytes
    layout: bytes
    pin: bool


class ObjectSealed(Message, frozen=True):
    """Others can get the object now."""

    request: int


class AbortObject(Message, frozen=True):
    """Give up an object that was created and not sealed."""

    object_id: bytes


class GetObject(Message, frozen=True):
    """Ask for a sealed object and pin it. Answered by `ObjectFound`, or `Failed` with `ObjectLostError`.

    An object that is on disk only is read back first, and one that is on another node is brought here. Who does not
    want the answer any more sends `ReleaseObjects`. `node_id` is where the object is said to be; empty for here.
    """

    request: int
    object_id: bytes
    node_id: bytes = b""


class ObjectFound(Message, frozen=True):
    """Where to read. A read-only descriptor comes along if the peer has none for the segment."""

    request: int
    segment_id: int
    segment_bytes: int
    offset: int
    size_bytes: int
    layout: bytes
    has_descriptor: bool


class ReleaseObjects(Message, frozen=True):
    """The sender's last view of each object is gone. One pin a `GetObject` (and a pinning seal) is taken off."""

    object_ids: list[bytes]


class SegmentNotTaken(Message, frozen=True):
    """The process could not map a segment that came with an answer: the next one is to bring the descriptor again."""

    segment_id: int


class ReturnPins(Message, frozen=True):
    """The store is full: let go of these where no view of them is left, and of the others with their last view.

    From the agent, to a process that has objects pinned only to have them at hand. It sends `ReleaseObjects`.
    """

    object_ids: list[bytes]


class SegmentsDestroyed(Message, frozen=True):
    """The memory of these segments was given back to the host: nothing is there any more, and they can be unmapped."""

    segment_ids: list[int]


class DeleteObjects(Message, frozen=True):
    """The owner says that no reference is left. Memory is used again when the last pin goes.

    `nodes` says for each where it was stored, for those that are on other nodes; empty if all are here.
    """

    object_ids: list[bytes]
    nodes: list[bytes] = []
