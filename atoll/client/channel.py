"""A non-blocking connection of the client's: to a worker, another owner, the scheduler or the node agent.

Bytes in, bodies out; bodies in, bytes out; and the handshake at the beginning, on either side of it. It never blocks:
two processes may connect to each other at the same moment. What the socket does not take at once is kept and sent
when the reactor says that there is room.
"""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from atoll.exceptions import AtollError, ObjectStoreFullError, ProtocolError
from atoll.protocol.channel_messages import decode_batch, encode_batch
from atoll.protocol.framing import (
    MAXIMUM_BODY_BYTES,
    MAXIMUM_DIRECT_BYTES,
    MAXIMUM_UNPROVED_BYTES,
    FrameDecoder,
    frame,
)
from atoll.protocol.handshake import ClientHandshake, ServerHandshake, refusal
from atoll.protocol.machine import Peer
from atoll.protocol.messages import decode, encode

_READ_BYTES = 256 * 1024
_LOST = -1
_read_buffer = memoryview(bytearray(_READ_BYTES))
"""Sockets are read into one buffer, under the session's lock: to allocate one each time costs three system calls."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(32 * array.array("i").itemsize)

FLUSH_AFTER_S = 0.0003
"""In a burst of submissions, messages may wait so long for others to travel with."""

UNSENDABLE = (ProtocolError, ValueError, TypeError, OverflowError, RecursionError)
"""What encoding and framing raise: a text that is no Unicode, a number of more than 64 bits, too many bytes."""

FLUSH_COUNT = 64
"""So many messages travel at once at the latest."""


class Channel:
    """One connection.

    Args:
        peer: Its number.
        connected: A non-blocking socket, connected or connecting.
        handshake: The proof that is still to be made; None on a connection that is proved.
        control: Whether it carries control messages (one a frame, perhaps with descriptors) or batches.

    Attributes:
        process_id: Of the other side, when it has proved the key.
        proved: Whether both sides believe each other.
        batch: Channel messages that are not sent yet.
        opened_at: When it was made, on the monotonic clock, in seconds.
    """

    __slots__ = (
        "_decoder",
        "_handshake",
        "_out",
        "batch",
        "control",
        "descriptors",
        "flushed_at",
        "opened_at",
        "peer",
        "process_id",
        "proved",
        "socket",
    )

    def __init__(
        self,
        peer: Peer,
        connected: socket.socket,
        handshake: ClientHandshake | ServerHandshake | None,
        *,
        control: bool = False,
    ) -> None:
        self.peer = peer
        self.socket = connected
        self.control = control
        self.process_id = b""
        self.batch: list[Any] = []
        self.descriptors: deque[int] = deque()
        self.flushed_at = 0.0
        self.opened_at = time.monotonic()
        self.proved = handshake is None
        self._handshake = handshake
        self._decoder = FrameDecoder() if handshake is None else FrameDecoder(MAXIMUM_UNPROVED_BYTES)
        self._out: deque[memoryview] = deque()
        if isinstance(handshake, ClientHandshake):
            self._write(frame(handshake.first_body()))

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for room in the socket."""
        return bool(self._out)

    # --------------------------------------------------------------------------------------------- reading

    def read(self) -> list[Any] | None:
        """Read once.

        Returns:
            What was said: control messages, or batches, each a list of channel messages; None when the other side has
            closed.

        Raises:
            AtollError: The handshake failed, the stream is no stream of frames, or a frame holds no message. Close the
                channel.
        """
        try:
            data = self._receive_control() if self.control else self._receive()
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        bodies = self._decoder.take(data)
        if not self.proved:
            bodies = self._shake(bodies)
        try:
            return [decode(body) for body in bodies] if self.control else [decode_batch(body) for body in bodies]
        except msgspec.DecodeError as problem:
            raise ProtocolError(f"a peer sent what is no message: {problem}") from None

    def _receive(self) -> memoryview:
        return _read_buffer[: self.socket.recv_into(_read_buffer)]

    def _receive_control(self) -> bytes:
        data, ancillary, flags, _address = self.socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self.descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:  # this process may have no more: those that came first, or none, are here
            self.descriptors.append(_LOST)
        return data

    def _shake(self, bodies: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        handshake = self._handshake
        assert handshake is not None
        for index, body in enumerate(bodies):
            try:
                answer = handshake.receive(bytes(body))
            except AtollError as error:
                if isinstance(handshake, ServerHandshake):
                    self._write(frame(refusal(error)))
                raise
            if answer is not None:
                self._write(frame(answer))
            if handshake.finished:
                assert handshake.peer is not None
                self.process_id = handshake.peer.process_id
                self._handshake = None
                self.proved = True
                self._decoder.maximum_bytes = MAXIMUM_BODY_BYTES if self.control else MAXIMUM_DIRECT_BYTES
                return bodies[index + 1 :]
        return []

    def take_descriptor(self) -> int:
        """Return the oldest descriptor that came; the caller closes it.

        Raises:
            ProtocolError: None came.
            ObjectStoreFullError: It came, and this process may have no more open files.
        """
        if not self.descriptors:
            raise ProtocolError("a message announced a descriptor and none came with it")
        descriptor = self.descriptors.popleft()
        if descriptor == _LOST:
            limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise ObjectStoreFullError(
                f"shared memory cannot be reached: this process has as many open files as it may have ({limit}); "
                "close some, or raise the limit (`ulimit -n`)"
            )
        return descriptor

    # --------------------------------------------------------------------------------------------- writing

    def send_control(self, message: Any) -> bool:
        """Send a control message now; True if some of it must wait until the socket takes it.

        Raises:
            ProtocolError: It is too long, or something in it cannot be encoded.
        """
        try:
            data = frame(encode(message), MAXIMUM_BODY_BYTES)
        except UNSENDABLE as problem:
            raise ProtocolError(f"{problem}") from problem
        return self._write(data)

    def flush(self, now: float) -> bool:
        """Send the batch now; True if some of it must wait until the socket takes it.

        Raises:
            ProtocolError: It is too long, or something in it cannot be encoded; it is all still there.
        """
        batch = self.batch
        if not batch:
            return False
        try:
            data = frame(encode_batch(batch), MAXIMUM_DIRECT_BYTES)
        except UNSENDABLE as problem:
            raise ProtocolError(f"{problem}") from problem
        self.flushed_at = now
        self.batch = []
        return self._write(data)

    def _write(self, data: bytes) -> bool:
        if self._out:
            self._out.append(memoryview(data))
            return True
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # the reader will see that the connection is gone
        if sent == len(data):
            return False
        self._out.append(memoryview(data)[sent:])
        return True

    def write_ready(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._out:
            view = self._out[0]
            try:
                sent = self.socket.send(view)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                return
            if sent < len(view):
                self._out[0] = view[sent:]
            else:
                self._out.popleft()

    def close(self) -> None:
        """Close the socket and the descriptors that nobody took."""
        self.socket.close()
        while self.descriptors:
            with contextlib.suppress(OSError):
                os.close(self.descriptors.popleft())
