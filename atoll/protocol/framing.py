"""Frames: a length of four bytes, little-endian, then so many bytes of body.

Every connection of Atoll carries them, from the first byte of the handshake on. The decoder is fed with whatever a
socket gave, in pieces of any size, and yields whole bodies. It knows nothing of what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atoll.exceptions import ProtocolError

HEADER_BYTES = 4
MAXIMUM_BODY_BYTES = 128 * 2**20
"""No body on a daemon's connection is larger: large values travel through the object store, and the code of a class,
which does not, is smaller."""

MAXIMUM_DIRECT_BYTES = 2**30
"""No body between two processes that run users' code is larger. Many small values make a large batch; so do code, an
exception or a text of any size."""

MAXIMUM_UNPROVED_BYTES = 64 * 2**10
"""All that a peer may send before it has proved the key (claim S18)."""


def frame(body: bytes | bytearray | memoryview, maximum_bytes: int = MAXIMUM_BODY_BYTES) -> bytes:
    """Return a body with its length before it.

    Raises:
        ProtocolError: The body is longer than `maximum_bytes`.
    """
    size = len(body)
    if size > maximum_bytes:
        raise ProtocolError(f"a message of {size} bytes is longer than {maximum_bytes}, the most there is")
    return size.to_bytes(HEADER_BYTES, "little") + body


class FrameDecoder:
    """Cuts a stream of bytes into bodies.

    Args:
        maximum_bytes: A longer body is a `ProtocolError`, before any of it is kept.
    """

    __slots__ = ("_buffer", "maximum_bytes")

    def __init__(self, maximum_bytes: int = MAXIMUM_BODY_BYTES) -> None:
        self._buffer = bytearray()
        self.maximum_bytes = maximum_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take what came from the socket and yield each body that is now whole.

        Raises:
            ProtocolError: A length is over `maximum_bytes`. The connection is to be closed.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        end = len(buffer)
        try:
            while end - position >= HEADER_BYTES:
                size = int.from_bytes(buffer[position : position + HEADER_BYTES], "little")
                if size > self.maximum_bytes:
                    raise ProtocolError(f"a peer announced {size} bytes; at most {self.maximum_bytes} are taken")
                stop = position + HEADER_BYTES + size
                if stop > end:
                    break
                body = bytes(memoryview(buffer)[position + HEADER_BYTES : stop])
                position = stop
                yield body
        finally:
            del buffer[:position]

    def take(self, data: bytes | memoryview) -> Sequence[bytes | memoryview]:
        """As `feed`, with all bodies at once. What usually comes, exactly one whole frame, is a slice of `data`.

        Raises:
            ProtocolError: As `feed`; the bodies before it are lost with the connection.
        """
        if not self._buffer and len(data) >= HEADER_BYTES:
            size = int.from_bytes(data[:HEADER_BYTES], "little")
            if size + HEADER_BYTES == len(data) and size <= self.maximum_bytes:
                return [data[HEADER_BYTES:]]
        return list(self.feed(data))

    @property
    def pending_bytes(self) -> int:
        """Bytes kept of a body that is not whole yet."""
        return len(self._buffer)
