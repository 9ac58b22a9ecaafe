"""One actor as the scheduler knows it, and as the journal keeps it. What becomes of it is `actors.py`'s business."""

from __future__ import annotations

import msgspec

from atoll.ids import PROCESS_ID_BYTES
from atoll.protocol.machine import Peer
from atoll.protocol.messages import ActorChanged
from atoll.protocol.values import ActorInterface, ActorSpec, Environment
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.lease import Lease

TABLE = "actors"
PENDING, ALIVE, RESTARTING, DEAD = "pending", "alive", "restarting", "dead"


class SavedActor(msgspec.Struct, frozen=True, array_like=True):
    """An actor as the journal keeps it. `environment` lets it be made again when its job is long gone.

    Before its constructor is first begun, and before it is begun again, `begun` is false: then nothing is lost with a
    scheduler, and to make a process is no restart.
    """

    spec: ActorSpec
    job: bytes
    incarnation: int
    restarts: int
    created: float
    environment: Environment | None
    begun: bool = True
    of_detached: bool = False


class Actor:
    """An actor.

    Attributes:
        incarnation: Counts its processes, from 0.
        restarts: How often it was made again.
        begun: Whether the constructor of this incarnation may have been begun.
        failures: Starts of a process that failed in a row.
        lease: Its home, while it has one.
        leaving: The home of a process that is being killed: the next one begins when it is gone, and not before.
        kept: Why this incarnation could not give its devices up while it was idle; empty if it did not try.
        stray: Its process on a node that was lost, until that is gone too; empty if there is none.
        watchers: Who hears of changes.
        created: Wall clock.
        of_detached: Whether a detached actor made it, or a task of one.
        environment: For its workers, so that it can be made again when its job is long gone.
    """

    __slots__ = (
        "begun",
        "cause",
        "created",
        "environment",
        "error",
        "failures",
        "incarnation",
        "job",
        "kept",
        "lease",
        "leaving",
        "of_detached",
        "restarts",
        "spec",
        "state",
        "stray",
        "watchers",
    )

    def __init__(self, spec: ActorSpec, job: Job, created: float, environment: Environment | None) -> None:
        self.environment = environment
        self.spec = spec
        self.job = job
        self.created = created
        self.state = PENDING
        self.incarnation = 0
        self.restarts = 0
        self.begun = False
        self.of_detached = False
        self.failures = 0
        self.lease: Lease | None = None
        self.leaving: Lease | None = None
        self.stray = b""
        self.cause = ""
        self.kept = ""
        self.error = b""
        self.watchers: dict[Peer, PeerRecord] = {}

    @property
    def outlives_its_job(self) -> bool:
        """Whether the actor stays when its notebook goes."""
        return self.spec.detached or self.of_detached

    @property
    def maker(self) -> bytes:
        """The process that made it and counts its handles."""
        return self.spec.actor_id[:PROCESS_ID_BYTES]

    @property
    def full_name(self) -> tuple[str, str]:
        """Its key among names."""
        return self.spec.namespace, self.spec.name

    def changed(self, request: int = 0) -> ActorChanged:
        """Return its state as a message."""
        alive = self.state == ALIVE and self.lease is not None
        return ActorChanged(
            request,
            self.spec.actor_id,
            self.state,
            self.incarnation,
            self.lease.address if alive and self.lease else "",
            self.lease.worker_id if alive and self.lease else b"",
            self.spec.class_name,
            self.spec.interface if request else _NO_INTERFACE,
            self.cause,
            self.error,
            self.spec.name,
        )


_NO_INTERFACE = ActorInterface()
encode_saved = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SavedActor)


def read_saved(value: bytes) -> SavedActor:
    """Read an actor's record.

    Raises:
        msgspec.DecodeError: It is of another version, or damaged.
    """
    return _decoder.decode(value)
