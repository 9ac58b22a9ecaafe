"""A blocking connection to a daemon or another process: connect, prove the key, send, receive.

The thin shell around `framing` and `handshake` for whoever has no event loop: the CLI, the dashboard's thread, tests,
and, through its socket, the client's reactor. Descriptors that come along with a message are kept in order until the
reader takes them.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import time
from collections import deque
from types import TracebackType
from typing import Any

from atoll.exceptions import AuthenticationError, ClusterLostError, ProtocolError
from atoll.protocol.framing import FrameDecoder, frame
from atoll.protocol.handshake import PROOF_WITHIN_S, ClientHandshake, Identity
from atoll.protocol.messages import Failed, Message, decode, encode

READ_BYTES = 256 * 1024
_MAXIMUM_DESCRIPTORS = 32
_BACKLOG_FULL_S = 0.005
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAXIMUM_DESCRIPTORS * array.array("i").itemsize)


class Connection:
    """A proved connection over a Unix socket.

    Args:
        path: The socket's path.
        key: The cluster's key.
        identity: Who we are.
        shares_values: Whether pickled values will be exchanged; then Python's minor version and cloudpickle's
            must be equal.
        timeout_s: For connecting and proving.

    Raises:
        ClusterLostError: Nobody listens there, or it did not answer in time.
        AuthenticationError: The other side does not know the key.
        VersionMismatchError: The versions do not fit.
    """

    def __init__(
        self,
        path: str,
        key: bytes,
        identity: Identity,
        *,
        shares_values: bool = False,
        timeout_s: float = PROOF_WITHIN_S,
    ) -> None:
        self._decoder = FrameDecoder()
        self._bodies: deque[bytes] = deque()
        self._descriptors: deque[int] = deque()
        self._requests = 0
        self._unasked: deque[Message] = deque()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(timeout_s)
            _connect(self.socket, path, time.monotonic() + timeout_s)
            handshake = ClientHandshake(key, identity, shares_values=shares_values)
            self._shake(handshake)
        except OSError as error:
            self.close()
            raise ClusterLostError(f"nobody answers at {path}: {error}") from None
        except BaseException:
            self.close()
            raise
        assert handshake.peer is not None
        self.peer = handshake.peer
        self._poll = select.poll()  # select() takes no descriptor above 1023
        self._poll.register(self.socket, select.POLLIN)
        self.socket.settimeout(None)

    def _shake(self, handshake: ClientHandshake) -> None:
        self.socket.sendall(frame(handshake.first_body()))
        while not handshake.finished:
            body = self.receive_body()
            if body is None:
                raise AuthenticationError("the other side closed the connection during the handshake")
            answer = handshake.receive(body)
            if answer is not None:
                self.socket.sendall(frame(answer))

    def receive_body(self) -> bytes | None:
        """Wait for the next body; None at the end of the stream. A socket timeout raises TimeoutError."""
        while not self._bodies:
            if not self.read_available():
                return None
        return self._bodies.popleft()

    def read_available(self) -> bool:
        """Read once from the socket; False at the end of the stream. Bodies are then in `take_bodies`."""
        data, ancillary, _flags, _address = self.socket.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not data:
            return False
        self._bodies.extend(self._decoder.feed(data))
        return True

    def take_bodies(self) -> list[bytes]:
        """Return the whole bodies that were read and not taken, oldest first."""
        bodies = list(self._bodies)
        self._bodies.clear()
        return bodies

    def take_descriptor(self) -> int:
        """Return the oldest descriptor that came and was not taken; the caller closes it.

        Raises:
            ProtocolError: None came.
        """
        if not self._descriptors:
            raise ProtocolError("a message announced a descriptor and none came with it")
        return self._descriptors.popleft()

    def send(self, message: Message) -> None:
        """Send a control message.

        Raises:
            ClusterLostError: The connection is gone.
        """
        try:
            self.socket.sendall(frame(encode(message)))
        except OSError as error:
            raise ClusterLostError(f"the connection to the {self.peer.role} is gone: {error}") from None

    def next_request(self) -> int:
        """Return a number for a request that this connection has not used."""
        self._requests += 1
        return self._requests

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next control message, or None when none comes in time.

        Raises:
            ClusterLostError: The connection is gone.
            ProtocolError: It is no message.
        """
        if self._unasked:
            return self._unasked.popleft()
        return self._receive_fresh(None if timeout_s is None else time.monotonic() + timeout_s)

    def _receive_fresh(self, deadline: float | None) -> Message | None:
        while not self._bodies:
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                if not self._poll.poll(left * 1000):
                    return None
            try:
                alive = self.read_available()
            except OSError:
                alive = False
            if not alive:
                raise ClusterLostError(f"the {self.peer.role} closed the connection")
        return decode(self._bodies.popleft())

    def request(self, message: Any, timeout_s: float | None = 30.0) -> Message:
        """Send a message that has a `request` number and return its answer; what else comes is kept for `receive`.

        Returns:
            The answer, which may be a `Failed`.

        Raises:
            TimeoutError: No answer in time.
            ClusterLostError: The connection is gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.send(message)
        while True:
            answer = self._receive_fresh(deadline)
            if answer is None:
                raise TimeoutError(f"the {self.peer.role} did not answer {type(message).__name__} in {timeout_s} s")
            if getattr(answer, "request", 0) == message.request and not isinstance(message, type(answer)):
                return answer
            self._unasked.append(answer)

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody took. May be called twice."""
        self.socket.close()
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.popleft())

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _connect(connecting: socket.socket, path: str, until: float) -> None:
    """Connect; a listener with a full backlog says EAGAIN at once, and is asked again until the time is over."""
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_BACKLOG_FULL_S)
        else:
            return


def failure(answer: Message) -> Exception | None:
    """Return the exception that a `Failed` stands for, or None for any other answer."""
    if not isinstance(answer, Failed):
        return None
    from atoll import exceptions

    kind = getattr(exceptions, answer.kind, exceptions.AtollError)
    error: Exception = kind(answer.text)
    return error
