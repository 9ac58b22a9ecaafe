"""All connections of a process's session: accepting, dialling, reading, sending.

Bytes and handshakes end here; what comes out are events of the core's kind: a peer has connected, said something, or is
gone. Everything but construction is called with the session's lock held; the reactor's handlers take it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from atoll.client.channel import FLUSH_AFTER_S, FLUSH_COUNT, Channel
from atoll.client.open_files import open_socket
from atoll.client.reactor import Reactor
from atoll.exceptions import AtollError, ProtocolError
from atoll.protocol.handshake import PROOF_WITHIN_S, ClientHandshake, Identity, ServerHandshake
from atoll.protocol.machine import Peer

MAXIMUM_UNPROVED = 64
"""Connections that have not proved the key, at a time (claim S18)."""

_WRITABLE = 0x4  # select.EPOLLOUT


class Switchboard:
    """The connections of a session.

    Args:
        lock: The session's.
        reactor: Polls the sockets.
        key: The cluster's.
        identity: Ours.
        address: Path of the socket at which other processes call us.

    Attributes:
        channels: By number.
        unsent: Those with a batch that waits to be sent.
        deadline: When the oldest unproved connection is to be cut off.
        on_proved: A channel stands.
        on_message: A channel has said something.
        on_lost: A channel is gone; with the reason, if it is ours to tell.
        on_unsendable: A message of a batch cannot be sent; with the reason.
    """

    def __init__(self, lock: threading.Lock, reactor: Reactor, key: bytes, identity: Identity, address: str) -> None:
        self._lock = lock
        self._reactor = reactor
        self._key = key
        self._identity = identity
        self._address = address
        self._peers = itertools.count(1)
        self._unproved: dict[Channel, None] = {}
        self._listener: socket.socket | None = None
        self.channels: dict[Peer, Channel] = {}
        self.unsent: dict[Channel, None] = {}
        self.deadline: float | None = None
        self.on_proved: Callable[[Channel], None] = lambda _channel: None
        self.on_message: Callable[[Channel, Any], None] = lambda _channel, _message: None
        self.on_lost: Callable[[Channel, AtollError | None], None] = lambda _channel, _error: None
        self.on_unsendable: Callable[[Channel, Any, ProtocolError], None] = lambda _channel, _message, _error: None

    # -------------------------------------------------------------------------------------------- connecting

    def listen(self) -> None:
        """Be reachable for other processes of this user."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # It is made 0600 before anybody can connect: the directory is ours alone, and nobody listens yet.
        listener.bind(self._address)
        os.chmod(self._address, 0o600)  # noqa: PTH101
        listener.listen(128)
        self._listener = listener
        self._reactor.register(listener.fileno(), self._accept)

    def _accept(self, _mask: int) -> None:
        with self._lock:
            while self._listener is not None:
                try:
                    connected, _address = self._listener.accept()
                except OSError:  # nobody more is waiting, or there are too many descriptors: it is tried again
                    return
                if _peer_uid(connected) != os.getuid() or len(self._unproved) >= MAXIMUM_UNPROVED:
                    connected.close()
                    continue
                connected.setblocking(False)
                self._add(connected, ServerHandshake(self._key, self._identity))

    def dial(self, path: str, *, control: bool = False, process_id: bytes = b"") -> Channel:
        """Connect to a daemon (`control`) or another process, without waiting for its proof.

        Raises:
            OSError: Nobody listens there.
        """
        connected = open_socket()
        try:
            connected.connect(path)
        except OSError:
            connected.close()
            raise
        handshake = ClientHandshake(self._key, self._identity, shares_values=not control)
        channel = self._add(connected, handshake, control=control)
        channel.process_id = process_id
        return channel

    def _add(
        self, connected: socket.socket, handshake: ClientHandshake | ServerHandshake, *, control: bool = False
    ) -> Channel:
        channel = Channel(Peer(next(self._peers)), connected, handshake, control=control)
        self.channels[channel.peer] = channel
        self._unproved[channel] = None
        if self.deadline is None:
            self.deadline = channel.opened_at + PROOF_WITHIN_S
        self._reactor.register(connected.fileno(), partial(self._ready, channel), writing=channel.wants_write)
        return channel

    def cut_off(self, now: float) -> None:
        """Lose the connections that have not proved the key in time."""
        if self.deadline is not None and self.deadline <= now:
            for channel in list(self._unproved):
                if channel.opened_at + PROOF_WITHIN_S <= now:
                    self._lose(channel, AtollError("the other side did not prove the key in time"))
            self._await_proofs()

    def _await_proofs(self) -> None:
        oldest = next(iter(self._unproved), None)
        self.deadline = oldest.opened_at + PROOF_WITHIN_S if oldest is not None else None

    # ----------------------------------------------------------------------------------------------- reading

    def _ready(self, channel: Channel, mask: int) -> None:
        """A socket can be read or written."""
        with self._lock:
            if channel.peer not in self.channels:
                return
            if mask & _WRITABLE:
                channel.write_ready()
                if not channel.wants_write:
                    self._reactor.want_write(channel.socket.fileno(), False)
                mask &= ~_WRITABLE
            if mask:
                self._read(channel)

    def _read(self, channel: Channel) -> None:
        was_proved = channel.proved
        try:
            messages = channel.read()
        except AtollError as error:
            self._lose(channel, error)
            return
        if messages is None:
            self._lose(channel, None)
            return
        if not was_proved:
            self._after_proof(channel)
        for message in messages:
            self.on_message(channel, message)

    def _after_proof(self, channel: Channel) -> None:
        if channel.wants_write:
            self._watch_writing(channel)
        if channel.proved:
            del self._unproved[channel]
            self._await_proofs()
            self.on_proved(channel)

    def _lose(self, channel: Channel, error: AtollError | None) -> None:
        if self.channels.pop(channel.peer, None) is not None:
            self._close(channel)
            self.on_lost(channel, error)

    def _close(self, channel: Channel) -> None:
        self.unsent.pop(channel, None)
        if channel in self._unproved:
            del self._unproved[channel]
            self._await_proofs()
        self._reactor.unregister(channel.socket.fileno())
        channel.close()

    def drop(self, peer: Peer) -> None:
        """Close a connection of which nobody wants to hear any more."""
        channel = self.channels.pop(peer, None)
        if channel is not None:
            self._close(channel)

    # ----------------------------------------------------------------------------------------------- sending

    def send_control(self, channel: Channel, message: Any) -> None:
        """Send a message to a daemon.

        Raises:
            ProtocolError: It is too long, or something in it cannot be encoded.
        """
        if channel.send_control(message):
            self._watch_writing(channel)

    def _watch_writing(self, channel: Channel) -> None:
        self._reactor.want_write(channel.socket.fileno(), True)

    def flush(self) -> None:
        """Send all batches."""
        unsent = self.unsent
        if unsent:
            now = time.monotonic()
            while unsent:
                channel, _ = unsent.popitem()
                try:
                    waits = channel.flush(now)
                except ProtocolError:
                    self._send_apart(channel, now)
                else:
                    if waits:
                        self._watch_writing(channel)

    def flush_if_due(self, now: float) -> None:
        """Send the batches that are large or whose channel has been silent; the others may grow a little."""
        for channel in list(self.unsent):
            if len(channel.batch) >= FLUSH_COUNT or now - channel.flushed_at > FLUSH_AFTER_S:
                del self.unsent[channel]
                try:
                    waits = channel.flush(now)
                except ProtocolError:
                    self._send_apart(channel, now)
                else:
                    if waits:
                        self._watch_writing(channel)

    def _send_apart(self, channel: Channel, now: float) -> None:
        """Send the messages of a batch that cannot be sent as a whole, and say which of them cannot be sent at all."""
        messages, channel.batch = channel.batch, []
        refused = []
        for message in messages:
            channel.batch = [message]
            try:
                if channel.flush(now):
                    self._watch_writing(channel)
            except ProtocolError as error:
                channel.batch = []
                refused.append((message, error))
        for message, problem in refused:
            self.on_unsendable(channel, message, problem)

    def close(self) -> None:
        """Close everything. The reactor has ended."""
        for channel in self.channels.values():
            channel.close()
        self.channels.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(self._address)  # noqa: PTH108


def _peer_uid(connected: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")
