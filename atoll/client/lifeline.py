"""Brings a session's cluster back, or says that it is gone.

A cluster has a supervisor only where a Jupyter server or `atoll up --foreground` started it. One that a kernel or a
script started has nobody: so each of them looks after a daemon that is away for longer than a supervisor needs.

    a daemon is away ──▶ connection file ──▶ another cluster's, or gone: it was stopped ──▶ the session ends
                              │ ours
                              ▼
                         lock, start what is dead ──▶ the uplinks find it ──▶ everything goes on
                              │ both were dead: nothing is left
                              ▼
                         the session ends: what waits fails with `ClusterLostError`, and the next call begins anew

It works in a thread of its own, which is there only while a daemon is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from atoll.client.restarts import Restarts, refusal
from atoll.config import settings as read_settings
from atoll.exceptions import AtollError, ClusterLostError
from atoll.protocol.cluster_file import ClusterFile, read_cluster_file


class Lifeline:
    """Of one session.

    Args:
        cluster: The session's.
        path: Of its connection file.
        give_up: Ends the session with an error; called in this lifeline's thread.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        cluster: ClusterFile,
        path: Path,
        give_up: Callable[[AtollError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._give_up = give_up
        self._clock = clock
        self._restarts = Restarts()
        self._thread: threading.Thread | None = None

    def pull(self) -> None:
        """A daemon is away. Returns at once; called by whoever reads the sockets."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="atoll-lifeline", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            self.bring_back()
        except AtollError as error:
            self._give_up(error)

    def bring_back(self) -> None:
        """Start whichever daemon is dead.

        Raises:
            ClusterLostError: The cluster was stopped, nothing is left of it, or its daemons die again and again.
            ClusterError: A daemon does not come up, or hangs.
        """
        from atoll.client.launch import exclusive, revive

        settings = read_settings()
        if not self._restarts.begin(self._clock()):
            raise ClusterLostError(refusal("the cluster's daemons", self._cluster.directory))
        if not self._is_ours():
            raise _stopped()
        with exclusive(self._path, settings.start_timeout_s):
            # Whoever stops a cluster holds the lock until all of it is gone.
            if not self._is_ours():
                raise _stopped()
            if revive(self._path, settings) is None:
                raise ClusterLostError("the cluster's daemons have died, and with them what it held; " + _NEXT)

    def _is_ours(self) -> bool:
        try:
            return read_cluster_file(self._path).cluster_id == self._cluster.cluster_id
        except FileNotFoundError:
            return False


_NEXT = "the next call begins with a new one"


def _stopped() -> ClusterLostError:
    return ClusterLostError("the cluster was stopped, and what it held is gone; " + _NEXT)
