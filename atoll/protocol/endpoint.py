"""The daemons' end of the network: listens, dials, proves the key, and hands typed messages to a core.

    bytes ──▶ Stream ──▶ handshake ──▶ PeerConnected                      ┐
                    └──▶ decode    ──▶ Received(peer, message)            ├──▶ deliver(event)
                    └──▶ gone      ──▶ PeerLost(peer, cause)              ┘

Everything runs on one tornado loop, in one thread, and nothing blocks. A connection has no number and no voice until
it has proved the key; till then it may send little, must hurry, and only so many are kept at once (claim S18). The
user id of the other end is asked of the kernel before its first byte is read (claim S6). Nothing is ever unpickled
here (claims S3, S4). A peer that sends what is no message loses its connection, and nobody else notices (claim S19).
A message with a field that is not what it has to be is answered: it holds something of a user's, who is to be told.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from asyncio import Future, get_running_loop, sleep
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from tornado.ioloop import IOLoop

from atoll.exceptions import AtollError, AuthenticationError, ClusterLostError, ClusterStartError
from atoll.protocol.framing import MAXIMUM_BODY_BYTES, MAXIMUM_UNPROVED_BYTES
from atoll.protocol.handshake import PROOF_WITHIN_S, ClientHandshake, Identity, ServerHandshake, refusal
from atoll.protocol.machine import Event, Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import Message, decode, encode
from atoll.protocol.refusals import refusal_of_body
from atoll.protocol.stream import Stream, peer_uid

MAXIMUM_UNPROVED_PEERS = 128
"""With more, the one that has been silent for longest goes: an honest peer needs a few milliseconds."""

_BACKLOG = 4096
"""A blocking `connect` with a timeout fails at once when the backlog is full; the system may allow less."""
_ACCEPTS_A_TURN = 16
_ACCEPT_AGAIN_S = 0.1
_DIAL_AGAIN_S = 0.01
_ANSWERED = frozenset({"client", "worker"})
_logger = logging.getLogger("atoll.endpoint")


class _Connecting:
    """A connection that has not proved the key yet, of either side.

    Args:
        endpoint: Whose it is.
        connected: The socket.
        handshake: Our side of it.
        proved: Set to the new peer, or to an exception, for whoever dialled; None for one that was accepted.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        connected: socket.socket,
        handshake: ServerHandshake | ClientHandshake,
        proved: Future[Peer] | None,
    ) -> None:
        self._endpoint = endpoint
        self._handshake = handshake
        self._proved = proved
        self._peer: Peer | None = None
        self.stream = Stream(
            connected,
            self._take_body,
            self._lost,
            maximum_body_bytes=MAXIMUM_UNPROVED_BYTES,
            allowance_bytes=MAXIMUM_UNPROVED_BYTES,
        )
        self._timer = IOLoop.current().call_later(PROOF_WITHIN_S, self._too_late)

    def _take_body(self, body: bytes) -> None:
        if self._peer is not None:
            self._endpoint.take_message(self._peer, body)
            return
        try:
            answer = self._handshake.receive(body)
        except AtollError as error:
            if self._proved is None:
                self.stream.write(refusal(error))
            self.give_up(error)
            return
        if answer is not None:
            self.stream.write(answer)
        if self._handshake.finished and not self.stream.closed:
            self._finish()

    def _finish(self) -> None:
        IOLoop.current().remove_timeout(self._timer)
        identity = self._handshake.peer
        assert identity is not None, "a finished handshake knows the other side"
        self.stream.trust(MAXIMUM_BODY_BYTES)
        self._peer = self._endpoint.admit(self, identity)
        if self._proved is not None and not self._proved.done():
            self._proved.set_result(self._peer)

    def _lost(self, cause: str) -> None:
        if self._peer is None:
            self.give_up(ClusterLostError(f"the other side {cause} during the handshake"))
        else:
            self._endpoint.lose(self._peer, cause)

    def _too_late(self) -> None:
        self.give_up(AuthenticationError(f"no proof of the key within {PROOF_WITHIN_S:g} s"))

    def give_up(self, error: AtollError) -> None:
        """Close the connection, which has not proved itself, and tell whoever dialled why."""
        IOLoop.current().remove_timeout(self._timer)
        self.stream.close()
        self._endpoint.forget(self)
        if self._proved is None:
            _logger.info("a connection was refused: %s", error)
        elif not self._proved.done():
            self._proved.set_exception(error)


class Endpoint:
    """All connections of a daemon.

    Use it in the thread of a running tornado or asyncio loop. `deliver` is called from the loop, never from within
    `send` or `close_peer`; it may call both.

    Args:
        key: The cluster's key.
        identity: Who we are.
        deliver: Takes `PeerConnected`, `Received` and `PeerLost`, in order.
        allowed_uid: Whose processes may connect; ours if None.
    """

    def __init__(
        self, key: bytes, identity: Identity, deliver: Callable[[Event], None], *, allowed_uid: int | None = None
    ) -> None:
        self._key = key
        self._identity = identity
        self._deliver = deliver
        self._allowed_uid = os.geteuid() if allowed_uid is None else allowed_uid
        self._peers: dict[Peer, Stream] = {}
        self._identities: dict[Peer, Identity] = {}
        self._unproved: dict[_Connecting, None] = {}
        self._listeners: list[tuple[socket.socket, str, tuple[int, int]]] = []
        self._last_peer = 0
        self._closed = False

    # ------------------------------------------------------------------------------------------------ outside

    def listen(self, path: str) -> None:
        """Take connections at a path. Its socket is 0600 from its first instant, whatever the umask.

        Raises:
            ClusterStartError: A living process listens there, or the path cannot be used.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            os.fchmod(listener.fileno(), 0o600)  # bind gives the file the socket's own mode, less the umask
            listener.bind(path)
            Path(path).chmod(0o600)
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            status = Path(path).stat()
        except OSError as error:
            listener.close()
            raise ClusterStartError(f"cannot listen at {path}: {error}") from None
        except BaseException:
            listener.close()
            raise
        self._listeners.append((listener, path, (status.st_dev, status.st_ino)))
        IOLoop.current().add_handler(listener.fileno(), lambda _fd, _events: self._accept(listener), IOLoop.READ)

    async def dial(self, path: str, timeout_s: float = PROOF_WITHIN_S) -> Peer:
        """Connect to another daemon and prove the key to each other; `PeerConnected` is delivered before this returns.

        Raises:
            ClusterLostError: Nobody listens there, or it went away or did not answer in time.
            AuthenticationError: The other side does not know the key.
            VersionMismatchError: The versions do not fit.
        """
        connected = await _connect(path, timeout_s)
        if peer_uid(connected) != self._allowed_uid:
            connected.close()
            raise AuthenticationError(f"what listens at {path} belongs to another user")
        proved: Future[Peer] = get_running_loop().create_future()
        handshake = ClientHandshake(self._key, self._identity)
        connecting = _Connecting(self, connected, handshake, proved)
        self._unproved[connecting] = None
        connecting.stream.write(handshake.first_body())
        try:
            return await proved
        finally:
            if proved.cancelled():
                connecting.give_up(ClusterLostError("nobody waits for the connection any more"))

    def send(self, peer: Peer, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message after all that was sent to this peer before; never blocks.

        A peer that is gone is ignored: its `PeerLost` has been or will be delivered. Descriptors travel with the
        message and stay the caller's, who may close them at once.
        """
        stream = self._peers.get(peer)
        if stream is not None:
            stream.write(encode(message), descriptors)

    def close_peer(self, peer: Peer) -> None:
        """Close a connection. No `PeerLost` follows; what was not sent yet is dropped."""
        stream = self._peers.pop(peer, None)
        self._identities.pop(peer, None)
        if stream is not None:
            stream.close()

    def identity_of(self, peer: Peer) -> Identity | None:
        """Return who a connected peer is."""
        return self._identities.get(peer)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for peers to read."""
        return sum(stream.unsent_bytes for stream in self._peers.values())

    @property
    def unproved_count(self) -> int:
        """Connections that have not proved the key yet."""
        return len(self._unproved)

    def close(self) -> None:
        """Close everything and remove the sockets' files. Nothing is delivered any more. May be called twice."""
        self._closed = True
        for listener, path, inode in self._listeners:
            IOLoop.current().remove_handler(listener.fileno())
            listener.close()
            with contextlib.suppress(FileNotFoundError):
                status = Path(path).stat()
                if (status.st_dev, status.st_ino) == inode:
                    Path(path).unlink()
        self._listeners.clear()
        for connecting in list(self._unproved):
            connecting.give_up(ClusterLostError("this process is closing its connections"))
        for peer in list(self._peers):
            self.close_peer(peer)

    # ------------------------------------------------------------------------------- for this file's connections

    def admit(self, connecting: _Connecting, identity: Identity) -> Peer:
        """Give a connection that has proved the key its number."""
        self._unproved.pop(connecting, None)
        self._last_peer += 1
        peer = Peer(self._last_peer)
        self._peers[peer] = connecting.stream
        self._identities[peer] = identity
        self._deliver(PeerConnected(peer, identity.role, identity.process_id))
        return peer

    def take_message(self, peer: Peer, body: bytes) -> None:
        """Decode and deliver a body of a proved peer."""
        if peer not in self._peers:
            return
        try:
            message = decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            identity = self._identities[peer]
            answer = refusal_of_body(body, str(error)) if identity.role in _ANSWERED else None
            if answer is not None:  # cut off, it would come back and say the same again
                _logger.warning("a %s sent what cannot be read: %s", identity.role, answer.text)
                self.send(peer, answer)
                return
            _logger.warning("a %s sent what is no message and is cut off: %s", identity.role, error)
            self.close_peer(peer)
            self._deliver(PeerLost(peer, f"sent what is no message: {error}"))
            return
        self._deliver(Received(peer, message))

    def lose(self, peer: Peer, cause: str) -> None:
        """Forget a peer whose connection is gone, and say so."""
        if self._peers.pop(peer, None) is not None:
            self._identities.pop(peer, None)
            self._deliver(PeerLost(peer, cause))

    def forget(self, connecting: _Connecting) -> None:
        """Drop a connection that gave up before it proved the key."""
        self._unproved.pop(connecting, None)

    # -------------------------------------------------------------------------------------------------- accepting

    def _accept(self, listener: socket.socket) -> None:
        for _turn in range(_ACCEPTS_A_TURN):
            try:
                connected, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            if peer_uid(connected) != self._allowed_uid:
                _logger.warning("a process of another user tried to connect")
                connected.close()
                continue
            if len(self._unproved) >= MAXIMUM_UNPROVED_PEERS:
                oldest = next(iter(self._unproved))
                oldest.give_up(AuthenticationError("too many connections wait to prove the key"))
            self._unproved[_Connecting(self, connected, ServerHandshake(self._key, self._identity), None)] = None

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Stop accepting for a moment: without descriptors left, the loop would spin on the waiting connection."""
        _logger.error("cannot accept connections for now: %s", error)
        descriptor = listener.fileno()
        IOLoop.current().remove_handler(descriptor)

        def resume() -> None:
            if not self._closed:
                IOLoop.current().add_handler(descriptor, lambda _fd, _events: self._accept(listener), IOLoop.READ)

        IOLoop.current().call_later(_ACCEPT_AGAIN_S, resume)


async def _connect(path: str, timeout_s: float) -> socket.socket:
    """Return a connected socket; waits only while the listener's backlog is full."""
    deadline = time.monotonic() + timeout_s
    while True:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect(path)
        except OSError as error:
            connected.close()
            if error.errno != errno.EAGAIN or time.monotonic() > deadline:
                raise ClusterLostError(f"nobody answers at {path}: {error.strerror}") from None
            await sleep(_DIAL_AGAIN_S)
            continue
        return connected


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone.

    Raises:
        ClusterStartError: Somebody listens there, or it is no socket.
    """
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ClusterStartError(f"{path} is there and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise ClusterStartError(f"another process listens at {path} already")
