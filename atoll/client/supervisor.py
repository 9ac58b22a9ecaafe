"""Keeps a cluster running for whoever is there to stay: the Jupyter server, or `atoll up --foreground`.

It has no thread and no timer of its own. Its owner calls `start` once, `check` every second or so, and `stop` at the
end; the calls block (for at most the start timeout), so an event loop makes them in an executor.

Only a cluster that was started here is watched and stopped. One that was found running belongs to somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from atoll.client.daemons import AGENT, is_alive, wait_for_end
from atoll.client.launch import DAEMONS, exclusive, revive, start_or_attach, stop_cluster
from atoll.client.restarts import Restarts, refusal
from atoll.config import Settings
from atoll.config import settings as read_settings
from atoll.exceptions import AtollError, ClusterLostError, ClusterStartError
from atoll.protocol.cluster_file import ClusterFile, default_path, read_cluster_file

_ENDING_S = 0.2


class Supervisor:
    """Starts or attaches, restarts what died, stops what it started.

    Args:
        started_by: For people: `jupyter`, `atoll up`.
        linger_s: As for `start_cluster`. A server that stays connected keeps the cluster; so the server may well give
            the usual time here, and nothing is left for ever if the server is killed.
        settings: As for `start_cluster`.
        path: Of the connection file, if not the usual one.
        clock: Monotonic seconds; tests give their own.

    Attributes:
        cluster: The cluster, once started or found; None before and after.
        started_here: Whether `start` started it.
        failure: Why the cluster was given up, or None.
    """

    def __init__(
        self,
        *,
        started_by: str,
        linger_s: float | None = None,
        settings: Settings | None = None,
        path: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._started_by = started_by
        self._linger_s = linger_s
        self._settings = settings
        self._path = Path(path) if path else default_path()
        self._clock = clock
        self._restarts = Restarts()
        self.cluster: ClusterFile | None = None
        self.started_here = False
        self.failure: AtollError | None = None

    def start(self) -> ClusterFile:
        """Start the cluster or attach to the one that runs.

        Raises:
            ClusterError, ValueError: As `start_cluster`.
        """
        self._settings = self._settings or read_settings()
        self.failure = None
        self.cluster, self.started_here = start_or_attach(
            linger_s=self._linger_s, started_by=self._started_by, settings=self._settings, path=self._path
        )
        return self.cluster

    def check(self) -> list[str]:
        """Restart daemons that died, if the cluster was started here.

        A cluster whose connection file is gone was stopped on purpose, and is left alone.

        Returns:
            The daemons that were restarted: `scheduler`, `agent`, both (then all that was in the cluster is lost), or
            none.

        Raises:
            ClusterStartError: A daemon does not come up again, or dies again and again; it is given up.
            ClusterLostError: Somebody ended the cluster, or another one is in its place. Said once.
        """
        if self.cluster is None or not self.started_here:
            return []
        dead = [daemon for daemon in DAEMONS if not is_alive(self.cluster, daemon, self._path)]
        if not dead:
            return []
        try:
            return self._restart(dead)
        except AtollError as error:
            self.failure = error
            self.cluster, self.started_here = None, False
            raise

    def _restart(self, dead: list[str]) -> list[str]:
        assert self.cluster is not None
        assert self._settings is not None
        # A cluster that ends by itself ends its agent first, and its files last.
        if dead == [AGENT]:
            wait_for_end([self.cluster.scheduler_pid], _ENDING_S)
        if not self._restarts.begin(self._clock()):
            raise ClusterStartError(refusal(f"the {' and the '.join(dead)}", self.cluster.directory))
        with exclusive(self._path, self._settings.start_timeout_s):
            self._check_not_stopped(self.cluster)
            revived = revive(self._path, self._settings)
        if revived is None:
            self.start()
        else:
            self.cluster = revived
        return dead

    def _check_not_stopped(self, cluster: ClusterFile) -> None:
        """Make sure that the daemons died. Under the lock, for `atoll down` holds it until all is gone."""
        try:
            current = read_cluster_file(self._path)
        except FileNotFoundError:
            raise ClusterLostError("the cluster was stopped") from None
        if current.cluster_id != cluster.cluster_id:
            raise ClusterLostError("the cluster was stopped, and another one was started")

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the cluster if it was started here; forget it in any case. May be called twice."""
        cluster, started_here = self.cluster, self.started_here
        self.cluster, self.started_here = None, False
        if cluster is not None and started_here:
            stop_cluster(cluster, timeout_s, path=self._path)
