"""The desk for clients and workers: jobs, demands, leases, actors, names, and the state for who looks on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from atoll.config import LEAST_WEIGHT, MOST_WEIGHT
from atoll.protocol.environment_messages import AddEnvironment, EnvironmentFound, GetEnvironment
from atoll.protocol.explanation import encode_explanation
from atoll.protocol.machine import ClosePeer, PeerLost
from atoll.protocol.messages import (
    AbandonName,
    ActForJob,
    ClaimName,
    CreateActor,
    CreateGroup,
    DemandRefused,
    Done,
    DrainNode,
    DropName,
    Explain,
    ExplainAll,
    Explained,
    ExplainedAll,
    FindGroup,
    GetActor,
    GetState,
    GetUsage,
    JobRegistered,
    KillActor,
    ListNames,
    Message,
    PublishName,
    RegisterJob,
    ReleaseActor,
    ReleaseDevice,
    RemoveGroup,
    ReturnLease,
    SetDemand,
    State,
    TaskBlocked,
    TaskUnblocked,
    Usage,
    WaitGroup,
    WatchActor,
    WatchState,
)
from atoll.protocol.state import encode_state
from atoll.protocol.usage import encode_usage
from atoll.protocol.values import SchedulingClass
from atoll.scheduler.core.agents import AgentDesk
from atoll.scheduler.core.cluster import GRACE_S, Cluster
from atoll.scheduler.core.group import what_is_wrong as what_is_wrong_with_group
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.lease import Lease
from atoll.scheduler.core.requests import what_is_wrong
from atoll.scheduler.core.state import cluster_state
from atoll.scheduler.core.why import Reasons

KINDS = ("kernel", "script", "server")
SHORTEST_INTERVAL_S = 0.1
MAXIMUM_DEFERRED = 1000
ACTOR_ID_BYTES = 16
MAXIMUM_PAYLOAD_BYTES = 32 * 2**20


class ClientDesk:
    """Handles what clients and workers say.

    Args:
        cluster: What there is.
        agents: For jobs that wait for a node.
        lose: Takes a connection for lost.
    """

    def __init__(self, cluster: Cluster, agents: AgentDesk, lose: Callable[[PeerLost], None]) -> None:
        self._cluster = cluster
        self._lose = lose
        self._turn = cluster.turn
        self._agents = agents

    # ----------------------------------------------------------------------------------------------------- jobs

    def register_job(self, record: PeerRecord, message: RegisterJob) -> None:
        """A session begins, or goes on after a restart of the scheduler."""
        cluster = self._cluster
        refusal = self._why_no_job(record, message)
        if refusal:
            self._turn.fail(record.peer, message.request, "ProtocolError", refusal)
            return
        known = cluster.jobs.get(message.job)
        if known is not None and known.peer is not None:
            # The client knows that its old connection is gone before we do.
            cause = "the client has registered on another connection"
            self._turn.do(ClosePeer(known.peer, cause))
            self._lose(PeerLost(known.peer, cause))
        digest = cluster.environments.add(message.environment) if message.environment is not None else ""
        job = cluster.jobs.open(message.job, self._turn.now)
        job.attach(message, record.peer, digest)
        for lease in job.leases.values():
            lease.node.company_changed()  # a job of before the restart has a name again
        cluster.shares.came(job, message.weight)
        record.job = job
        if digest:
            cluster.define(digest)
        answer = JobRegistered(message.request, digest, b"", "")
        if len(cluster.nodes):
            self._turn.send(record.peer, self._agents.with_node(answer))
        else:
            self._agents.wait_for_node(record.peer, answer)
        cluster.leases.claim(record)

    def _why_no_job(self, record: PeerRecord, message: RegisterJob) -> str:
        if message.job != record.process_id:
            return "a job has the process id of its client"
        if message.kind not in KINDS:
            return f"{message.kind!r} is no kind of job; there are {', '.join(KINDS)}"
        if record.job is not None:
            return "the job is registered already"
        if not LEAST_WEIGHT <= message.weight <= MOST_WEIGHT:
            return f"a weight of {message.weight} is none; give one from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
        return ""

    def _job_of(self, record: PeerRecord) -> Job | None:
        """Return the job that a peer acts for; a worker's is that of its lease."""
        if record.role == "worker":
            lease = self._cluster.leases.of_worker(record.process_id)
            if lease is not None:
                record.job = lease.job
        if record.job is None and record.acts_for:
            record.job = self._cluster.jobs.get(record.acts_for)
        return record.job

    def act_for_job(self, record: PeerRecord, message: ActForJob) -> None:
        """A worker, whose lease may be over soon, says for which job it runs, which may not be back yet itself."""
        record.acts_for = message.job

    def _defer(self, record: PeerRecord, message: Message) -> bool:
        """Keep what a worker said until its lease is known again; False if that will not be."""
        young = self._turn.now < self._turn.started + GRACE_S
        if record.role != "worker" or not young or len(record.deferred) >= MAXIMUM_DEFERRED:
            return False
        record.deferred.append(message)
        return True

    def _can_judge(self, record: PeerRecord, message: Message) -> bool:
        """Whether a worker's job is known, and the environment that it names; the client may not be back yet."""
        if isinstance(message, SetDemand):
            digest = message.scheduling_class.environment if message.count > 0 else ""
        else:
            digest = message.spec.scheduling_class.environment if isinstance(message, CreateActor) else ""
        return self._job_of(record) is not None and self._environment_known(digest)

    def deferred(self) -> list[tuple[PeerRecord, Message]]:
        """Return what can be handled now, and forget it. What one worker said is handled in order, all or nothing."""
        found: list[tuple[PeerRecord, Message]] = []
        for record in self._cluster.peers.values():
            if record.deferred and all(self._can_judge(record, message) for message in record.deferred):
                found += [(record, message) for message in record.deferred]
                record.deferred = []
        return found

    # --------------------------------------------------------------------------------------------- environments

    def add_environment(self, record: PeerRecord, message: AddEnvironment) -> None:
        """A process says what some of its tasks and actors run in. Agents make it ready at once: that may take long."""
        job = self._job_of(record)
        if job is None and record.role != "worker":
            text = "register a job before environments are added"
            self._turn.fail(record.peer, message.request, "ProtocolError", text)
            return
        digest = self._cluster.environments.add(message.environment)
        if job is not None:  # a worker's may not be back yet; what it asks for next names the environment
            job.environments[digest] = None
        self._cluster.define(digest)
        self._turn.send(record.peer, EnvironmentFound(message.request, digest, message.environment))

    def get_environment(self, record: PeerRecord, message: GetEnvironment) -> None:
        """Tell what an environment is."""
        environment = self._cluster.environments.get(message.digest)
        if environment is None:
            text = f"the cluster knows no environment {message.digest}"
            self._turn.fail(record.peer, message.request, "RuntimeEnvSetupError", text)
        else:
            self._turn.send(record.peer, EnvironmentFound(message.request, message.digest, environment))

    # --------------------------------------------------------------------------------------------------- leases

    def set_demand(self, record: PeerRecord, message: SetDemand) -> None:
        """A process says how many leases it wants."""
        if (record.deferred or not self._can_judge(record, message)) and self._defer(record, message):
            return
        job = self._job_of(record)
        if job is None:
            text = "register a job before leases are asked for"
            self._turn.send(record.peer, DemandRefused(message.demand_key, "ProtocolError", text))
            return
        wrong = what_is_wrong(message.scheduling_class) if message.count > 0 else None
        kind = "ProtocolError"
        if wrong is None and message.count > 0 and not self._environment_known(message.scheduling_class.environment):
            kind, wrong = "RuntimeEnvSetupError", "the environment of these tasks is not known to the cluster"
        if wrong is not None:
            self._turn.send(record.peer, DemandRefused(message.demand_key, kind, wrong))
            return
        self._cluster.demands.set_demand(record, job, message)

    def _environment_known(self, digest: str) -> bool:
        return not digest or self._cluster.environments.get(digest) is not None

    def return_lease(self, record: PeerRecord, message: ReturnLease) -> None:
        """A holder is done with a lease."""
        lease = self._cluster.leases.get(message.lease_id)
        if lease is not None and lease.record is record:
            self._cluster.leases.end(lease, kill=message.discard)

    def task_blocked(self, record: PeerRecord, message: TaskBlocked) -> None:
        """A worker waits. After a restart it says so again, perhaps before its node is back."""
        lease = self._own_lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lending.block(lease)
        elif message.lease_id < self._cluster.leases.first_id:
            self._defer(record, message)

    def task_unblocked(self, record: PeerRecord, message: TaskUnblocked) -> None:
        """A worker goes on."""
        lease = self._own_lease(record, message.lease_id)
        if lease is not None:
            self._cluster.lending.unblock(lease)
        elif message.lease_id < self._cluster.leases.first_id:
            self._defer(record, message)

    def _own_lease(self, record: PeerRecord, lease_id: int) -> Lease | None:
        lease = self._cluster.leases.get(lease_id)
        return lease if lease is not None and lease.worker_id == record.process_id else None

    # --------------------------------------------------------------------------------------------------- actors

    def create_actor(self, record: PeerRecord, message: CreateActor) -> None:
        """Make an actor."""
        if (record.deferred or not self._can_judge(record, message)) and self._defer(record, message):
            return
        job = self._job_of(record)
        if job is None:
            self._turn.fail(record.peer, message.request, "ProtocolError", "register a job before actors are made")
            return
        spec = message.spec
        wrong = what_is_wrong(spec.scheduling_class)
        if wrong is None and len(spec.actor_id) != ACTOR_ID_BYTES:
            wrong = f"an actor's id has {ACTOR_ID_BYTES} bytes"
        if wrong is None and len(spec.payload) > MAXIMUM_PAYLOAD_BYTES:
            wrong = "the class and its arguments are more than 32 MiB; put large values first and pass their refs"
        if wrong is not None:
            self._turn.fail(record.peer, message.request, "ProtocolError", wrong)
            return
        environment = self._cluster.environments.get(spec.scheduling_class.environment)
        if environment is None and spec.scheduling_class.environment:
            text = "the environment of this actor is not known to the cluster"
            self._turn.fail(record.peer, message.request, "RuntimeEnvSetupError", text)
            return
        self._cluster.actors.create(record, job, message, environment)

    def get_actor(self, record: PeerRecord, message: GetActor) -> None:
        """Find an actor by its name."""
        self._cluster.actors.get(record, message.request, message.name, message.namespace)

    def watch_actor(self, record: PeerRecord, message: WatchActor) -> None:
        """Tell of an actor."""
        self._cluster.actors.watch(record, message.request, message.actor_id)

    def kill_actor(self, record: PeerRecord, message: KillActor) -> None:
        """End an actor."""
        self._cluster.actors.kill(record, message)

    def release_actor(self, record: PeerRecord, message: ReleaseActor) -> None:
        """Nobody has a handle of an actor any more."""
        if record.deferred and self._defer(record, message):
            return  # what makes the actor waits, too
        self._cluster.actors.release(record, message)

    # --------------------------------------------------------------------------------------------------- groups

    def create_group(self, record: PeerRecord, message: CreateGroup) -> None:
        """Take a placement group in."""
        if (record.deferred or not self._can_judge(record, message)) and self._defer(record, message):
            return
        job = self._job_of(record)
        wrong = "register a job before placement groups are made" if job is None else None
        wrong = wrong or what_is_wrong_with_group(message.spec)
        for amounts in message.spec.bundles:
            wrong = wrong or what_is_wrong(SchedulingClass(amounts, ""))
        if job is None or wrong is not None:
            self._turn.fail(record.peer, message.request, "ProtocolError", wrong or "")
            return
        self._cluster.groups.create(record, job, message)

    def remove_group(self, record: PeerRecord, message: RemoveGroup) -> None:
        """Remove a placement group, if it is there."""
        group = self._cluster.groups.get(message.group_id)
        if group is not None:
            self._cluster.remove_group(group, "somebody asked for it")
        self._turn.send(record.peer, Done(message.request))

    def wait_group(self, record: PeerRecord, message: WaitGroup) -> None:
        """Answer when a placement group is created."""
        group = self._cluster.groups.find(message.group_id, "", "")
        if group is None:
            self._turn.fail(record.peer, message.request, "ValueError", "the cluster knows no such placement group")
        else:
            self._cluster.groups.wait(record, message.request, group)

    def find_group(self, record: PeerRecord, message: FindGroup) -> None:
        """Answer with a placement group."""
        group = self._cluster.groups.find(message.group_id, message.namespace, message.name)
        if group is None:
            text = f"no placement group has the name {message.name!r}" if message.name else "no such placement group"
            self._turn.fail(record.peer, message.request, "ValueError", text)
        else:
            self._turn.send(record.peer, group.changed(message.request))

    # ---------------------------------------------------------------------------------------------------- names

    def claim_name(self, record: PeerRecord, message: ClaimName) -> None:
        """Find a named object, or compute it."""
        self._cluster.names.claim(record.peer, message)

    def publish_name(self, record: PeerRecord, message: PublishName) -> None:
        """Name an object."""
        self._cluster.names.publish(record.peer, message)

    def abandon_name(self, record: PeerRecord, message: AbandonName) -> None:
        """Give up computing."""
        self._cluster.names.abandon(record.peer, message.name, message.request)

    def drop_name(self, record: PeerRecord, message: DropName) -> None:
        """Take a name away."""
        self._cluster.names.drop(record.peer, message.request, message.name)

    def list_names(self, record: PeerRecord, message: ListNames) -> None:
        """Answer with all names."""
        self._cluster.names.list(record.peer, message.request)

    # ---------------------------------------------------------------------------------------------------- state

    def get_state(self, record: PeerRecord, message: GetState) -> None:
        """Answer with the whole state."""
        self._turn.send(record.peer, State(message.request, self._encoded_state()))

    def get_usage(self, record: PeerRecord, message: GetUsage) -> None:
        """Answer who has held and used how much."""
        self._turn.send(record.peer, Usage(message.request, encode_usage(self._cluster.ledger.report())))

    def drain_node(self, record: PeerRecord, message: DrainNode) -> None:
        """Empty a node. What can be nowhere else fails now."""
        self._cluster.drains.ask(record, message)
        self._agents.refuse_impossible()

    def release_device(self, record: PeerRecord, message: ReleaseDevice) -> None:
        """Have a quarantined device given again. Several nodes of one host have the same devices."""
        all_of_them = [(node, use) for node in self._cluster.nodes for use in node.devices.values()]
        found = [
            (node, use)
            for node, use in all_of_them
            if message.uuid
            and (
                use.device.uuid.startswith(message.uuid)
                or message.uuid in {str(use.device.index), f"{node.name}:{use.device.index}"}
            )
        ]
        meant = dict.fromkeys(use.device.uuid for _node, use in found)
        if len(meant) != 1:
            names = (f"{use.device.uuid} ({node.name}:{use.device.index})" for node, use in all_of_them)
            known = ", ".join(names)
            text = f"{len(meant) or 'no'} GPUs are meant by {message.uuid!r}; there are: {known or 'none'}"
            self._turn.fail(record.peer, message.request, "AtollError", text)
            return
        quarantined = [(node, use) for node, use in found if use.condition.quarantined]
        if not quarantined:
            ((_node, use), *_others) = found
            trouble = use.condition.trouble or "nothing is wrong with it"
            text = f"GPU {use.device.index} ({use.device.uuid}) is not quarantined: {trouble}"
            self._turn.fail(record.peer, message.request, "AtollError", text)
            return
        for node, use in quarantined:
            # The node hears of it before it hears of a lease that is placed there now.
            self._turn.send(node.peer, ReleaseDevice(0, use.device.uuid))
            node.lift_quarantine(use.device.uuid)
        self._cluster.demands.queues.unblock()
        self._turn.send(record.peer, Done(message.request))

    def explain(self, record: PeerRecord, message: Explain) -> None:
        """Answer why something waits, or what would be."""
        reasons = Reasons(self._cluster)
        if message.scheduling_class is not None:
            wrong = what_is_wrong(message.scheduling_class)
            if wrong is not None:
                self._turn.fail(record.peer, message.request, "ProtocolError", wrong)
                return
            found = reasons.of_class(message.scheduling_class)
        else:
            demand = (
                self._cluster.demands.of_actor(message.actor_id)
                if message.actor_id
                else record.demands.get(message.demand_key)
            )
            home = self._cluster.actors.home_of(message.actor_id) if message.actor_id else None
            if home is not None and home.wanted_since is not None:
                found = reasons.of_return(home)
            elif demand is None or demand.shortfall <= 0:
                self._turn.fail(record.peer, message.request, "ValueError", "it does not wait for the scheduler")
                return
            else:
                found = reasons.of_demand(demand)
        code = message.code or (message.scheduling_class.code if message.scheduling_class is not None else b"")
        usual = self._cluster.peaks.in_words(code)
        if usual:
            found = msgspec.structs.replace(found, usual=usual)
        self._turn.send(record.peer, Explained(message.request, encode_explanation(found)))

    def explain_all(self, record: PeerRecord, message: ExplainAll) -> None:
        """Answer why each of the things waits that wait."""
        found = [encode_explanation(explanation) for _demand, explanation in Reasons(self._cluster).of_all()]
        self._turn.send(record.peer, ExplainedAll(message.request, found))

    def _encoded_state(self) -> bytes:
        return encode_state(cluster_state(self._cluster))

    def watch_state(self, record: PeerRecord, message: WatchState) -> None:
        """Send the state now and then, beginning now."""
        if not message.interval_s > 0:
            record.watch_interval_s = 0.0
        else:
            record.watch_interval_s = min(max(message.interval_s, SHORTEST_INTERVAL_S), 3600.0)
            record.watch_due = self._turn.now
        self.send_watched()

    def send_watched(self) -> None:
        """Send the state to all for whom it is time, and note when it is next."""
        encoded: bytes | None = None
        self._turn.deadlines.pop("watch", None)
        for record in self._cluster.peers.values():
            if not record.watch_interval_s:
                continue
            if record.watch_due <= self._turn.now:
                encoded = encoded or self._encoded_state()
                self._turn.send(record.peer, State(0, encoded))
                record.watch_due = self._turn.in_s(record.watch_interval_s)
            self._turn.set_earlier("watch", record.watch_due)


def request_of(message: Message) -> int | None:
    """Return the number of a request that wants an answer, or None."""
    request: int | None = getattr(message, "request", None)
    return request
