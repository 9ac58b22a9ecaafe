"""Connections that use the node's store: whose they are, which segments they can reach, what they have pinned.

A process maps a segment once: its descriptor travels with the first answer that names the segment, and is remembered
here. One to read with and one to write with are remembered separately, since a reader's descriptor is read-only. Pins
belong to connections: what a process held goes when its connection does. An agent of another node is attached, too; it
has objects pinned while it copies them, and maps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from atoll.protocol.machine import Peer


@dataclass(slots=True)
class Attachment:
    """One connection.

    Attributes:
        process_id: The process at its other end.
        agent: Whether that is an agent of another node.
        reached: The segments that it can reach, and whether to write.
        pinned: The objects that it has pinned.
    """

    process_id: bytes
    agent: bool
    reached: dict[tuple[int, bool], None] = field(default_factory=dict)
    pinned: dict[bytes, None] = field(default_factory=dict)


class Attachments:
    """All connections that use the store."""

    def __init__(self) -> None:
        self._by_peer: dict[Peer, Attachment] = {}

    def __contains__(self, peer: Peer) -> bool:
        """Whether a connection has attached."""
        return peer in self._by_peer

    def __getitem__(self, peer: Peer) -> Attachment:
        """Return what is known of a connection that has attached."""
        return self._by_peer[peer]

    def items(self) -> Iterator[tuple[Peer, Attachment]]:
        """Yield all connections, oldest first."""
        yield from self._by_peer.items()

    def attach(self, peer: Peer, process_id: bytes, *, agent: bool) -> None:
        """A process will use the store through this connection. It may say so again."""
        if peer not in self._by_peer:
            self._by_peer[peer] = Attachment(process_id, agent)

    def detach(self, peer: Peer) -> Attachment | None:
        """Forget a connection, and return what was known of it."""
        return self._by_peer.pop(peer, None)

    def is_there(self, process_id: bytes) -> bool:
        """Whether a process has a connection."""
        return any(attachment.process_id == process_id for attachment in self._by_peer.values())

    def is_agent(self, peer: Peer) -> bool:
        """Whether a connection is of an agent of another node."""
        attachment = self._by_peer.get(peer)
        return attachment is not None and attachment.agent

    def reach(self, peer: Peer, segment_id: int, *, writable: bool) -> bool:
        """A connection is told of a segment. Returns whether it needs a descriptor for it."""
        reached = self._by_peer[peer].reached
        if (segment_id, writable) in reached:
            return False
        reached[(segment_id, writable)] = None
        return True

    def not_taken(self, peer: Peer, segment_id: int) -> None:
        """A process has no mapping of a segment, though its descriptor was sent: it needs it again."""
        attachment = self._by_peer.get(peer)
        if attachment is not None:
            attachment.reached.pop((segment_id, True), None)
            attachment.reached.pop((segment_id, False), None)

    def forget_segments(self, segment_ids: list[int]) -> Iterator[tuple[Peer, list[int]]]:
        """Segments are no more. Yields each connection that could reach some of them, and which."""
        for peer, attachment in self._by_peer.items():
            reached = attachment.reached
            gone = [number for number in segment_ids if (number, True) in reached or (number, False) in reached]
            for segment_id in gone:
                reached.pop((segment_id, True), None)
                reached.pop((segment_id, False), None)
            if gone:
                yield peer, gone

    def pinned_by(self, peer: Peer) -> dict[bytes, None]:
        """Return what a connection has pinned."""
        attachment = self._by_peer.get(peer)
        return attachment.pinned if attachment is not None else {}
