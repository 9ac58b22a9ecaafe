"""The desk for node agents: nodes come, say what happens to leases and actors, and go.

A node that comes back after a restart of the scheduler brings what lives on there. What was begun before this
scheduler's life is taken up; everything else on that node is ended, because somebody was already told that it is
lost. What ends is taken up too, until it has ended: its devices are nobody else's before.
"""

from __future__ import annotations

from atoll.protocol.leave_messages import DevicesKept, DevicesReleased, DevicesWanted
from atoll.protocol.machine import ClosePeer, Instant, Peer
from atoll.protocol.messages import (
    ActorFailed,
    ActorStarted,
    DefineEnvironment,
    EndLease,
    JobRegistered,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    LocateNode,
    NodeLocated,
    NodeRegistered,
    NodeSampled,
    ObjectAdopted,
    ObjectGone,
    ObjectsEvacuated,
    RegisterNode,
    SpansRecorded,
    StartLease,
)
from atoll.scheduler.core.cluster import GRACE_S, Cluster
from atoll.scheduler.core.jobs import PeerRecord
from atoll.scheduler.core.lease import Lease
from atoll.scheduler.core.nodes import Node


class AgentDesk:
    """Handles what agents say.

    Args:
        cluster: What there is.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turn = cluster.turn
        self._jobs_without_node: dict[Peer, JobRegistered] = {}
        self._looking: dict[tuple[Peer, bytes], None] = {}

    # ------------------------------------------------------------------------------------------ coming and going

    def register_node(self, record: PeerRecord, message: RegisterNode) -> None:
        """A node offers itself, with what lives on there."""
        cluster = self._cluster
        if record.node_id is not None:
            self._turn.fail(record.peer, message.request, "ProtocolError", "this connection has registered a node")
            return
        known = cluster.nodes.get(message.node_id)
        if known is not None:
            self._replace(known)
        node = cluster.nodes.add(message, record.peer, self._turn.now)
        record.node_id = node.node_id
        wanted = {job.environment: None for job in cluster.jobs.connected()}
        for digest, environment in cluster.environments.items():
            self._turn.send(record.peer, DefineEnvironment(digest, environment, digest in wanted))
        for peer, answer in self._jobs_without_node.items():
            self._turn.send(peer, self.with_node(answer))
        self._jobs_without_node.clear()
        cluster.groups.node_came(node)  # before leases: some of them take from what is set apart
        self._restore(node, message)
        cluster.names.node_came(node)
        cluster.drains.node_came(node)
        self._turn.send(record.peer, NodeRegistered(message.request))
        self._answer_who_looks()
        cluster.leases.nodes_changed()
        self.refuse_impossible()

    def _replace(self, node: Node) -> None:
        """The agent has a new connection; the old one is as good as closed."""
        for other in list(self._cluster.agents()):
            if other.node_id == node.node_id:
                self._turn.do(ClosePeer(other.peer, "the node has registered on another connection"))
                del self._cluster.peers[other.peer]
                self.node_lost(other, "it reconnected")

    def node_lost(self, record: PeerRecord, cause: str) -> None:
        """An agent is gone, and everything that ran on its node."""
        cluster = self._cluster
        node = cluster.nodes.get(record.node_id) if record.node_id is not None else None
        record.node_id = None
        if node is None:
            return
        node.peer = None
        gone = "has left" if node.draining else "is lost"
        self._turn.warn(f"node {node.name} ({node.node_id.hex()}) {gone}: {cause}")
        for lease in list(cluster.leases):
            if lease.node is node:
                if lease.actor_id:
                    cluster.actors.left_behind(lease)
                cluster.lease_over(lease, "WorkerCrashedError", f"the node agent of {node.name} is gone")
        cluster.groups.node_lost(node)
        cluster.nodes.remove(node, self._turn.now)
        cluster.meter.node_gone(node)
        cluster.drains.node_gone(node)
        cluster.leases.nodes_changed()
        self._turn.set_earlier("nodes", self._turn.in_s(GRACE_S))

    def wait_for_node(self, peer: Peer, answer: JobRegistered) -> None:
        """Answer a job as soon as there is a node."""
        self._jobs_without_node[peer] = answer

    def peer_lost(self, peer: Peer) -> None:
        """Nobody waits there any more."""
        self._jobs_without_node.pop(peer, None)
        for key in [key for key in self._looking if key[0] == peer]:
            del self._looking[key]

    def with_node(self, answer: JobRegistered) -> JobRegistered:
        """Return the answer with the first node, which is the one of this host."""
        node = next(iter(self._cluster.nodes))
        return JobRegistered(answer.request, answer.environment, node.node_id, node.agent_socket)

    def refuse_impossible(self) -> None:
        """Refuse what waits and no node that is here can ever give."""
        demands = self._cluster.demands
        for demand, reason in demands.impossible():
            if demand.actor_id:
                self._cluster.actors.impossible(demand.actor_id, reason)
            else:
                demands.refuse(demand, "TaskUnschedulableError", reason)

    def expect_nodes(self) -> None:
        """While there is no node and something waits for one, see to it that it does not wait for ever."""
        cluster = self._cluster
        since = cluster.nodes.none_since
        if since is not None and (len(cluster.demands.queues) or self._jobs_without_node):
            self._turn.set_earlier("nodes", Instant(since + GRACE_S))

    def nodes_due(self) -> None:
        """Nodes had their time to come: what depends on those that are not here fails now."""
        cluster = self._cluster
        cluster.names.drop_unreachable()
        self._answer_who_looks(at_last=True)
        if len(cluster.nodes):
            self.refuse_impossible()
            return
        reason = "the cluster has no node: its node agent did not start, or died; see its log"
        for demand in list(cluster.demands.queues.waiting()):
            if demand.actor_id:
                cluster.actors.impossible(demand.actor_id, reason)
            else:
                cluster.demands.refuse(demand, "TaskUnschedulableError", reason)
        for peer, answer in self._jobs_without_node.items():
            self._turn.fail(peer, answer.request, "ClusterLostError", reason)
        self._jobs_without_node.clear()

    # ------------------------------------------------------------------------------------------------ restoring

    def _restore(self, node: Node, message: RegisterNode) -> None:
        cluster = self._cluster
        started = {start.lease_id: start for start in message.started}
        homes = {lease_id: actor_id for actor_id, lease_id in message.actors}
        away = dict(message.away)
        # Those that have given their devices up come first: others may have them now.
        for lease_id, worker_id, address in sorted(message.leases, key=lambda entry: entry[0] not in away):
            lease = self._restore_lease(node, started.get(lease_id), worker_id, address, homes.get(lease_id, b""))
            if lease is None:
                self._turn.send(node.peer, EndLease(lease_id, True))
                continue
            if lease_id in away:
                cluster.lending.lend_devices(lease)
                if away[lease_id]:
                    cluster.lending.want_devices(lease)
            actor_id = homes.get(lease_id)
            if not address or cluster.leases.was_lost(lease_id):
                wanted = False  # it is ending, or somebody was told that it is lost
            elif actor_id is not None:
                wanted = cluster.actors.found_again(actor_id, lease)
            else:
                wanted = bool(lease.holder)
            if not wanted:  # what it holds is nobody else's before it has ended
                cluster.actors.found_ending(lease)
                cluster.leases.end(lease, kill=True)
        for record in cluster.peers.values():
            if record.role == "worker" or record.job is not None:
                cluster.leases.claim(record)
        if cluster.leases.unclaimed():
            self._turn.set_earlier("grace", self._turn.in_s(GRACE_S))

    def _restore_lease(
        self, node: Node, start: StartLease | None, worker_id: bytes, address: str, actor_id: bytes
    ) -> Lease | None:
        cluster = self._cluster
        if start is None:
            return None
        job = cluster.jobs.open(start.job, self._turn.now)
        if job.peer is None:
            cluster.mark_ended(job)
        return cluster.leases.restore(node, job, start, worker_id, address, actor_id)

    # ----------------------------------------------------------------------------------------- what happens there

    def _lease(self, record: PeerRecord, lease_id: int) -> Lease | None:
        """Return a lease of the agent's own node; what it says of others is not believed."""
        lease = self._cluster.leases.get(lease_id)
        return lease if lease is not None and lease.node.node_id == record.node_id else None

    def lease_started(self, record: PeerRecord, message: LeaseStarted) -> None:
        """A worker is ready."""
        lease = self._lease(record, message.lease_id)
        if lease is None or lease.worker_id:
            return
        self._cluster.leases.started(lease, message)
        if lease.actor_id:
            self._cluster.actors.home_ready(lease)

    def lease_failed(self, record: PeerRecord, message: LeaseFailed) -> None:
        """No worker could be had."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lease_over(lease, message.kind or "WorkerCrashedError", message.text)

    def lease_ended(self, record: PeerRecord, message: LeaseEnded) -> None:
        """What a lease held is free."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lease_over(lease, message.kind, message.text, message.memory)

    def devices_released(self, record: PeerRecord, message: DevicesReleased) -> None:
        """An idle actor has given its devices up."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lending.lend_devices(lease)

    def devices_kept(self, record: PeerRecord, message: DevicesKept) -> None:
        """An idle actor could not give its devices up."""
        lease = self._lease(record, message.lease_id)
        actor = self._cluster.actors.living(lease.actor_id) if lease is not None else None
        if actor is not None:
            actor.kept = message.text

    def devices_wanted(self, record: PeerRecord, message: DevicesWanted) -> None:
        """It has been called."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lending.want_devices(lease)

    def actor_started(self, record: PeerRecord, message: ActorStarted) -> None:
        """A constructor returned."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.actors.constructed(message.actor_id, lease)

    def actor_failed(self, record: PeerRecord, message: ActorFailed) -> None:
        """A constructor raised."""
        lease = self._lease(record, message.lease_id)
        if lease is not None:
            self._cluster.actors.construction_failed(message.actor_id, lease, message.text, message.error)

    def node_sampled(self, record: PeerRecord, message: NodeSampled) -> None:
        """Keep the newest sample."""
        node = self._cluster.nodes.get(record.node_id) if record.node_id is not None else None
        if node is None:
            return
        self._cluster.meter.take(node, message.sample, self._turn.now)
        if node.observe(message.sample):
            self._cluster.demands.queues.unblock()

    def spans_recorded(self, record: PeerRecord, message: SpansRecorded) -> None:
        """Add to the timeline."""
        if record.node_id is not None:
            self._cluster.spans.add(record.node_id, message.spans)
            self._cluster.durations.learn(message.spans)
            self._cluster.meter.take_spans(message.spans)
            self._cluster.peaks.learn(message.spans)

    def objects_evacuated(self, record: PeerRecord, message: ObjectsEvacuated) -> None:
        """Another node has taken over the objects of one that leaves."""
        self._cluster.drains.evacuated(record, message)

    def locate_node(self, record: PeerRecord, message: LocateNode) -> None:
        """An agent looks for another one, to fetch an object.

        After a restart of the scheduler nodes come back one by one. What one does not know yet is not lost.
        """
        self._looking[record.peer, message.node_id] = None
        self._answer_who_looks(at_last=self._turn.now >= self._turn.started + GRACE_S)

    def _answer_who_looks(self, *, at_last: bool = False) -> None:
        """Say where nodes are that agents look for; finally, that the others are not here."""
        for peer, asked in list(self._looking):
            node = self._cluster.drains.locate(asked)
            if node is not None or at_last:
                del self._looking[peer, asked]
                found = (node.node_id, node.agent_socket) if node is not None else (b"", "")
                self._turn.send(peer, NodeLocated(asked, *found))

    def object_adopted(self, record: PeerRecord, message: ObjectAdopted) -> None:
        """A named object is safe."""
        if record.node_id is not None:
            self._cluster.names.adopted(message.object_id)

    def object_gone(self, record: PeerRecord, message: ObjectGone) -> None:
        """A named object is lost."""
        if record.node_id is not None:
            self._cluster.names.object_gone(message.object_id)
