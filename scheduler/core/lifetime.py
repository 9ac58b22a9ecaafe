"""How long the cluster lives: while somebody uses it, and a while longer, or until it is told to end.

serving ── StopCluster, a signal, or nobody for `linger_s` ──▶ stopping ── all nodes gone, or 5 s ──▶ Exit
"""

from __future__ import annotations

from atoll.protocol.messages import Done, StopCluster, StopNode
from atoll.scheduler.core.cluster import Cluster
from atoll.scheduler.core.events import Exit
from atoll.scheduler.core.jobs import PeerRecord

STOP_WITHIN_S = 5.0
"""Agents end their workers and exit; a scheduler waits for that no longer."""


class Lifetime:
    """Decides when the scheduler ends.

    Args:
        cluster: What there is.
        linger_s: How long it stays without a job, from the start too; None for ever.
    """

    def __init__(self, cluster: Cluster, linger_s: float | None) -> None:
        self._cluster = cluster
        self._turn = cluster.turn
        self._linger_s = linger_s
        self.stopping = ""
        self.exited = False
        self.jobs_changed()

    def jobs_changed(self) -> None:
        """Count anew how long nobody has been here."""
        if self._linger_s is None or self.stopping:
            return
        if self._cluster.jobs.connected():
            self._turn.deadlines.pop("linger", None)
        else:
            self._turn.set_earlier("linger", self._turn.in_s(self._linger_s))

    def stop_cluster(self, record: PeerRecord, message: StopCluster) -> None:
        """Somebody asks for the end."""
        reason = self._why_used(record) if message.only_if_unused else ""
        if reason:
            self._turn.fail(record.peer, message.request, "ClusterError", f"the cluster goes on: {reason}")
            return
        self._turn.send(record.peer, Done(message.request))
        self.stop(f"a {record.role} asked for it")

    def _why_used(self, record: PeerRecord) -> str:
        others = [job for job in self._cluster.jobs.connected() if job is not record.job]
        if others:
            return f"{others[0].name or 'another client'} is attached"
        if len(self._cluster.names):
            return "its cache has names"
        if self._cluster.actors.detached():
            return "it has detached actors"
        return ""

    def stop(self, cause: str) -> None:
        """Begin to end: agents first."""
        if self.stopping:
            return
        self.stopping = cause
        self._turn.deadlines.clear()
        self._turn.deadlines["stop"] = self._turn.in_s(STOP_WITHIN_S)
        for agent in self._cluster.agents():
            self._turn.send(agent.peer, StopNode())
        self.exit_if_alone()

    def exit_if_alone(self, *, at_once: bool = False) -> None:
        """End when no agent is left, or now."""
        if self.stopping and not self.exited and (at_once or not any(self._cluster.agents())):
            self.exited = True
            self._turn.deadlines.clear()
            self._turn.do(Exit(self.stopping))
