"""Where the dashboard's states come from. Tests give a source of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from atoll.exceptions import ClusterNotFoundError, ProtocolError
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.state import ClusterState, decode_state

if TYPE_CHECKING:
    from atoll.client.connection import Connection

_LOOK_WHETHER_STOPPED_S = 0.25


class StateSource(Protocol):
    """Gives states of one cluster."""

    @property
    def cluster_id(self) -> str:
        """Which cluster; empty if it is not known."""
        ...

    def current(self) -> ClusterState:
        """Return the state now. Blocks for a moment.

        Raises:
            ClusterError: There is no cluster, or it does not answer.
        """
        ...

    def watch(self, interval_s: float, stopped: threading.Event) -> Iterator[bytes]:
        """Yield the state as JSON, every so often, until `stopped` is set.

        Raises:
            ClusterError: As `current`.
        """
        ...


class ClusterSource:
    """The scheduler of this kernel's cluster, over a connection of its own.

    The connection registers no job: looking at a cluster does not keep it alive.

    Args:
        cluster: Which; by default the one that this kernel is attached to, or else the one of this user and host.
    """

    def __init__(self, cluster: ClusterFile | None = None) -> None:
        self._given = cluster
        self._found = cluster

    @property
    def cluster_id(self) -> str:
        """Which cluster; empty before the first was found."""
        return self._found.cluster_id if self._found else ""

    def current(self) -> ClusterState:
        """Return the state now."""
        from atoll.client.connection import failure
        from atoll.protocol.messages import GetState, State

        with self._connect() as connection:
            answer = connection.request(GetState(connection.next_request()), timeout_s=5.0)
            error = failure(answer)
            if error is not None:
                raise error
            if not isinstance(answer, State):
                raise ProtocolError(f"the scheduler answered GetState with {type(answer).__name__}")
            return decode_state(answer.state)

    def watch(self, interval_s: float, stopped: threading.Event) -> Iterator[bytes]:
        """Yield the state as JSON, every so often, until `stopped` is set."""
        from atoll.protocol.messages import State, WatchState

        with self._connect() as connection:
            connection.send(WatchState(interval_s))
            while not stopped.is_set():
                message = connection.receive(timeout_s=_LOOK_WHETHER_STOPPED_S)
                if isinstance(message, State):
                    yield message.state

    def _connect(self) -> Connection:
        from atoll.client.connection import Connection
        from atoll.ids import new_process_id
        from atoll.protocol.handshake import Identity

        self._found = self._find()
        return Connection(self._found.scheduler_socket, self._found.key_bytes(), Identity("client", new_process_id()))

    def _find(self) -> ClusterFile:
        """Return the cluster, looked up each time: after a restart it may be another."""
        from atoll.client.launch import find_cluster

        cluster = self._given or find_cluster()
        if cluster is None:
            raise ClusterNotFoundError(
                "no cluster of yours runs on this host; `%load_ext atoll` or `atoll up` starts one"
            )
        return cluster
