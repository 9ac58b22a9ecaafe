"""Jobs and peers: who is connected, for which session it acts, and how much its job uses.

A job is one session of a notebook or script. Its client registers it; workers act within the job of the lease that
they work for. A job whose client is gone is kept as long as something of it lives on: a named or detached actor, and
what that actor has asked for.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import Message, RegisterJob
from atoll.protocol.values import Environment
from atoll.scheduler.core.history import History

if TYPE_CHECKING:
    from atoll.scheduler.core.demand import Demand
    from atoll.scheduler.core.lease import Lease

_encoder = msgspec.msgpack.Encoder(order="sorted")


def environment_digest(environment: Environment) -> str:
    """Return the name of an environment: equal for equal content."""
    return hashlib.sha256(_encoder.encode(environment)).hexdigest()[:32]


class Job:
    """A session.

    Attributes:
        peer: The client's connection; None once it is gone.
        ended: Whether the client has gone for good.
        number: Its own, in the order in which they came.
        served: The last lease that was started for it: of sessions of equal shares, who was served last waits longest.
        history: What its leases and placement groups hold and held, by the fading clock of `shares`.
        used: What they hold, lent CPU not counted: a part of the history.
        weight: Who has twice the weight may have twice as much.
        share: Its dominant share of the cluster, of now and lately, in millionths. Queues are ordered by it.
        leases: By id, in the order of their start.
        demands: What it asks for, by arrival.
        environment: Digest of the environment of its workers.
        environments: Digests of others that its tasks and actors may name.
    """

    __slots__ = (
        "demands",
        "ended",
        "environment",
        "environments",
        "history",
        "job_id",
        "kind",
        "leases",
        "name",
        "namespace",
        "number",
        "peer",
        "pid",
        "served",
        "share",
        "since",
        "used",
        "weight",
    )

    def __init__(self, job_id: bytes, now: Instant, number: int = 0) -> None:
        self.job_id = job_id
        self.number = number
        self.peer: Peer | None = None
        self.ended = False
        self.kind = "script"
        self.name = ""
        self.pid = 0
        self.namespace = ""
        self.environment = ""
        self.environments: dict[str, None] = {}
        self.since = now
        self.history: History[float] = History()
        self.used = self.history.holding
        self.weight = 1.0
        self.served = 0
        self.share = 0
        self.leases: dict[int, Lease] = {}
        self.demands: dict[int, Demand] = {}

    def attach(self, message: RegisterJob, peer: Peer, environment: str) -> None:
        """Note what the client said of itself."""
        self.peer = peer
        self.ended = False
        self.kind = message.kind
        self.name = message.name
        self.pid = message.pid
        self.namespace = message.namespace
        self.environment = environment
        for demand in self.demands.values():
            demand.tally = None  # which depends on its name


class JobTable:
    """The jobs that are there."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: bytes) -> Job | None:
        """Return a job that is known."""
        return self._jobs.get(job_id)

    def open(self, job_id: bytes, now: Instant) -> Job:
        """Return a job, made now if it was not known."""
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = Job(job_id, now, next(self._numbers))
        return job

    def forget(self, job: Job) -> None:
        """Drop a job of which nothing is left."""
        assert not job.leases, "a job with leases is still charged"
        self._jobs.pop(job.job_id, None)

    def connected(self) -> list[Job]:
        """Return the jobs whose client is here."""
        return [job for job in self if job.peer is not None]


class PeerRecord:
    """A connection as the scheduler knows it.

    Attributes:
        job: The job that it acts for, once known.
        acts_for: The job that a worker says it has run for, before the restart of the scheduler.
        node_id: The node, for an agent that has registered.
        demands: By the peer's own key.
        leases: That it holds or that are being started for it.
        watching: Actors whose changes it hears of.
        watch_interval_s: How often it wants the state; 0 for never.
        watch_due: When it is next.
        deferred: What a worker said before its lease was known again, after a restart of the scheduler.
        handlers: Who handles what it may say, by the type of the message.
    """

    __slots__ = (
        "acts_for",
        "deferred",
        "demands",
        "handlers",
        "job",
        "leases",
        "node_id",
        "peer",
        "process_id",
        "role",
        "watch_due",
        "watch_interval_s",
        "watching",
    )

    def __init__(self, peer: Peer, role: str, process_id: bytes) -> None:
        self.peer = peer
        self.role = role
        self.process_id = process_id
        self.job: Job | None = None
        self.acts_for = b""
        self.node_id: bytes | None = None
        self.demands: dict[int, Demand] = {}
        self.leases: dict[int, Lease] = {}
        self.watching: dict[bytes, None] = {}
        self.watch_interval_s = 0.0
        self.watch_due = Instant(0.0)
        self.deferred: list[Message] = []
        self.handlers: dict[type[Message], Callable[[PeerRecord, Any], None]] = {}


class EnvironmentTable:
    """The environments that leases may name, by digest."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}

    def __len__(self) -> int:
        return len(self._environments)

    def add(self, environment: Environment) -> str:
        """Take an environment in and return its digest."""
        digest = environment_digest(environment)
        self._environments[digest] = environment
        return digest

    def get(self, digest: str) -> Environment | None:
        """Return an environment that is known."""
        return self._environments.get(digest)

    def items(self) -> list[tuple[str, Environment]]:
        """Return all, oldest first."""
        return list(self._environments.items())

    def keep_only(self, digests: Mapping[str, None]) -> None:
        """Forget those that nothing names any more."""
        for digest in [digest for digest in self._environments if digest not in digests]:
            del self._environments[digest]
