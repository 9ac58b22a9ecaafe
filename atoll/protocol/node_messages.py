"""Control messages about what a cluster has done and what becomes of its nodes. Part of `messages`."""

from __future__ import annotations

from atoll.protocol.message import Message


class GetUsage(Message, frozen=True):
    """Ask what notebooks, cells and actors have held and used. Answered by `Usage`."""

    request: int


class Usage(Message, frozen=True):
    """The answer to `GetUsage`: JSON of `atoll.protocol.usage.UsageReport`."""

    request: int
    usage: bytes


class DrainNode(Message, frozen=True):
    """Empty a node: nothing new is placed there, what runs there ends or moves, its objects go elsewhere, it leaves.

    Answered by `DrainBegun`, or `Failed` if there is no such node or nothing else to go to. How far it is, the state
    tells.

    Attributes:
        request: Answered.
        node: Its name or the beginning of its id, as hex.
        deadline_s: What still runs after so long is ended; 0 for never.
        undo: Take the node into use again, if it has not left.
    """

    request: int
    node: str
    deadline_s: float = 0.0
    undo: bool = False


class DrainBegun(Message, frozen=True):
    """The answer to `DrainNode`: the whole id of the node."""

    request: int
    node_id: bytes


class EvacuateObjects(Message, frozen=True):
    """From the scheduler, to the agent of a node that is empty: have another node take all objects over.

    Answered by `ObjectsEvacuated`. Whoever looks for one of them here will be sent there.
    """

    node_id: bytes


class ObjectsEvacuated(Message, frozen=True):
    """Another node has taken these over.

    Attributes:
        objects: How many.
        size_bytes: Of all of them.
        problem: Why some were not, in one line; empty if all were. It is tried again.
    """

    objects: int
    size_bytes: int
    problem: str = ""


# ------------------------------------------------------------------------------------------- between node agents


class LocateNode(Message, frozen=True):
    """From an agent to the scheduler: where is the agent of a node, or of who stands in for it?

    Answered by `NodeLocated`.
    """

    node_id: bytes


class NodeLocated(Message, frozen=True):
    """The answer to `LocateNode`.

    Attributes:
        asked: The node that was asked for.
        node_id: The node, or the one that has taken its objects over; empty if there is none.
        agent_socket: Where its agent listens.
    """

    asked: bytes
    node_id: bytes
    agent_socket: str


class FetchObject(Message, frozen=True):
    """Ask another agent for an object and pin it there. Answered by `ObjectOffered`, or `Failed`."""

    request: int
    object_id: bytes


class ObjectOffered(Message, frozen=True):
    """The object is in memory: its size, and how it is to be read. The asker reads it with `ReadPiece`."""

    request: int
    size_bytes: int
    layout: bytes


class ReadPiece(Message, frozen=True):
    """Ask for a part of an object that the asker has pinned. Answered by `ObjectPiece`, or `Failed`."""

    request: int
    object_id: bytes
    offset: int
    size_bytes: int


class ObjectPiece(Message, frozen=True):
    """The bytes that were asked for."""

    request: int
    data: bytes


class KeepObjects(Message, frozen=True):
    """From the agent of a node that leaves: take these over. Answered by `ObjectsKept`.

    `names` has the name of each in the cluster's cache, or nothing.
    """

    request: int
    object_ids: list[bytes]
    names: list[str]


class ObjectsKept(Message, frozen=True):
    """The answer to `KeepObjects`: how many are there now, their size, and why some are not."""

    request: int
    objects: int
    size_bytes: int
    problem: str = ""
