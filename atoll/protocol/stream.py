"""One non-blocking connection of a daemon: whole bodies in, frames and descriptors out.

    socket ──▶ Stream ── take_body(body) ──▶ endpoint
    socket ◀── Stream ◀── write(body, descriptors)

A stream knows frames, and nothing of what is in them. What it writes and the socket does not take is kept, up to a
limit: a peer that does not read must not eat the daemon's memory, so it is cut off above that.

Descriptors travel with the first byte of their frame. They stay the caller's: a stream that cannot send a frame at
once keeps duplicates of its own, and closes them.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tornado.ioloop import IOLoop

from atoll.exceptions import ProtocolError
from atoll.protocol.framing import FrameDecoder, frame

READ_BYTES = 256 * 1024
MAXIMUM_UNSENT_BYTES = 256 * 2**20
"""A peer that lets more than this wait for it is cut off."""
MAXIMUM_DESCRIPTORS = 32
"""As many as a receiver makes room for in one message."""

_CREDENTIALS = struct.Struct("3i")
_FEW_BYTES = 64 * 1024
"""Small frames are joined up to this size, so that a burst of them costs one system call."""
_scratch = memoryview(bytearray(READ_BYTES))
"""One buffer for all streams of this process: each copies out what it read before another reads."""


def peer_uid(connected: socket.socket) -> int:
    """Return the user id of the process on the other end of a Unix socket, as the kernel knows it."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(data)
    return int(uid)


class _Unsent(NamedTuple):
    """Bytes that wait for the socket. `descriptors` are ours and travel with the first byte."""

    data: memoryview
    descriptors: tuple[int, ...]


class Stream:
    """A connected Unix socket on the loop of this thread.

    Args:
        connected: A connected socket; the stream owns it from now on.
        take_body: Called with each whole body, in order.
        lost: Called once, from the loop, when the connection is gone for any reason but `close`; with the cause.
        maximum_body_bytes: A longer body ends the connection.
        allowance_bytes: So many bytes may come in all until `trust` is called; None for any number.
    """

    def __init__(
        self,
        connected: socket.socket,
        take_body: Callable[[bytes], None],
        lost: Callable[[str], None],
        *,
        maximum_body_bytes: int,
        allowance_bytes: int | None = None,
    ) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._take_body = take_body
        self._lost = lost
        self._decoder = FrameDecoder(maximum_body_bytes)
        self._allowance_bytes = allowance_bytes
        self._unsent: deque[_Unsent] = deque()
        self.unsent_bytes = 0
        self.closed = False
        self._failing = False
        self._loop = IOLoop.current()
        self._events = IOLoop.READ
        self._loop.add_handler(connected.fileno(), self._ready, self._events)

    def trust(self, maximum_body_bytes: int) -> None:
        """Lift the limits that hold before the peer has proved the key."""
        self._allowance_bytes = None
        self._decoder.maximum_bytes = maximum_body_bytes

    def write(self, body: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a body after all that was written before; never blocks. Does nothing on a closed stream.

        Args:
            body: What the frame holds.
            descriptors: At most `MAXIMUM_DESCRIPTORS`; the caller keeps them and may close them on return.

        Raises:
            ProtocolError: The body is longer than any frame.
        """
        assert len(descriptors) <= MAXIMUM_DESCRIPTORS, "more descriptors than a receiver makes room for"
        if self.closed or self._failing:
            return
        data = memoryview(frame(body))
        sent = 0
        if not self._unsent:
            try:
                sent = self._send_once([data], descriptors)
            except OSError as error:
                self._fail(f"cannot be written to: {error.strerror}")
                return
            if sent == len(data):
                return
        kept = tuple(os.dup(number) for number in descriptors) if sent == 0 else ()
        self._unsent.append(_Unsent(data[sent:], kept))
        self.unsent_bytes += len(data) - sent
        if self.unsent_bytes > MAXIMUM_UNSENT_BYTES:
            self._fail(f"does not read: more than {MAXIMUM_UNSENT_BYTES} bytes wait for it")
            return
        self._watch(IOLoop.READ | IOLoop.WRITE)

    def close(self) -> None:
        """Close the socket and drop what was not sent. `lost` is not called. May be called twice."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_handler(self._socket.fileno())
        self._socket.close()
        while self._unsent:
            _close_all(self._unsent.popleft().descriptors)
        self.unsent_bytes = 0

    # ------------------------------------------------------------------------------------------------- the loop

    def _ready(self, _descriptor: int, events: int) -> None:
        if events & IOLoop.WRITE and not self.closed:
            self._flush()
        if events & (IOLoop.READ | IOLoop.ERROR) and not self.closed:
            self._read()

    def _read(self) -> None:
        room = _scratch if self._allowance_bytes is None else _scratch[: self._allowance_bytes]
        try:
            # Plain `recv`: the kernel closes descriptors that a peer sends to a daemon unasked.
            count = self._socket.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(f"connection failed: {error.strerror}")
            return
        if count == 0:
            self._lose("closed the connection")
            return
        if self._allowance_bytes is not None:
            self._allowance_bytes -= count
        try:
            for body in self._decoder.feed(_scratch[:count]):
                self._take_body(body)
                if self.closed or self._failing:
                    return
        except ProtocolError as error:
            self._lose(str(error))
            return
        if self._allowance_bytes is not None and self._allowance_bytes <= 0:
            self._lose("sent too much before it proved the key")

    def _flush(self) -> None:
        try:
            while self._unsent:
                batch = self._batch()
                sent = self._send_once(batch, self._unsent[0].descriptors)
                if sent == 0:
                    return
                self._mark_sent(sent)
        except OSError as error:
            self._lose(f"cannot be written to: {error.strerror}")
            return
        self._watch(IOLoop.READ)

    def _batch(self) -> list[memoryview]:
        """Return the pieces for one system call: a second piece with descriptors must begin a call of its own."""
        pieces = [self._unsent[0].data]
        size = len(pieces[0])
        for index in range(1, len(self._unsent)):
            piece = self._unsent[index]
            if size >= _FEW_BYTES or piece.descriptors or index >= 64:
                break
            pieces.append(piece.data)
            size += len(piece.data)
        return pieces

    def _mark_sent(self, sent: int) -> None:
        self.unsent_bytes -= sent
        while sent:
            data, descriptors = self._unsent.popleft()
            _close_all(descriptors)
            if sent < len(data):
                self._unsent.appendleft(_Unsent(data[sent:], ()))
                return
            sent -= len(data)

    def _send_once(self, pieces: list[memoryview], descriptors: Sequence[int]) -> int:
        """Return how many bytes the socket took; 0 if it is full."""
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            return self._socket.sendmsg(pieces, ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._loop.update_handler(self._socket.fileno(), events)

    def _fail(self, cause: str) -> None:
        """Lose the connection soon: whoever writes now is in the middle of its work and hears of it afterwards."""
        self._failing = True
        self._loop.add_callback(self._lose, cause)

    def _lose(self, cause: str) -> None:
        if not self.closed:
            self.close()
            self._lost(cause)


def _close_all(descriptors: Sequence[int]) -> None:
    for number in descriptors:
        with contextlib.suppress(OSError):
            os.close(number)
