"""A lease as the node knows it, and how the end of its worker is told."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from atoll.ids import ActorId
from atoll.nodeagent.core.events import ProcessExited
from atoll.nodeagent.core.workers import Worker, WorkerKey
from atoll.protocol.messages import StartLease
from atoll.protocol.values import DeviceShare, MemoryLoss, SchedulingClass
from atoll.resources import CPU, UNITS_PER_ONE


@dataclass(slots=True)
class Lease:
    """A lease.

    Attributes:
        begun: What the scheduler said when it began: number, job, what it holds. A scheduler that was restarted
            learns it from here.
        dedicated: The worker serves no other lease afterwards.
        worker: Its worker; None once that is gone.
        state: `starting`, `running` or `ending`.
        starts: How many workers it was given.
        actor_id: The actor that lives in it, if one does.
        actor_alive: Whether the actor's constructor has returned.
        idle_s: So long without a call the actor keeps its devices; 0 for always.
        claiming: Whether it has no worker yet because its devices are not its own yet.
        cooling: Whether it ends, and is looked how much of its devices its worker holds.
        crashed: Whether it ends because its worker's connection broke, not because the scheduler wished it.
        cause: Why its worker is ended before its time, in words; empty if it is not, or if it ends by itself.
        kind: The class of the error that ended it; empty if it ended as wished.
        text: Likewise, in a line.
        memory: How it ran out of memory, if that is why.
    """

    begun: StartLease
    dedicated: bool
    worker: Worker | None = None
    state: str = "starting"
    starts: int = 0
    actor_id: ActorId | None = None
    actor_alive: bool = False
    idle_s: float = 0.0
    claiming: bool = False
    cooling: bool = False
    crashed: bool = False
    cause: str = ""
    kind: str = ""
    text: str = ""
    memory: MemoryLoss | None = None

    @property
    def lease_id(self) -> int:
        """The scheduler's number."""
        return self.begun.lease_id

    @property
    def job(self) -> bytes:
        """For whom."""
        return self.begun.job

    @property
    def scheduling_class(self) -> SchedulingClass:
        """What it holds."""
        return self.begun.scheduling_class

    @property
    def devices(self) -> list[DeviceShare]:
        """The devices that it holds."""
        return self.begun.devices

    @property
    def place(self) -> tuple[bytes, str]:
        """Its worker's id and address; empty while it ends."""
        if self.state != "running" or self.worker is None:
            return b"", ""
        return self.worker.worker_id, self.worker.address

    @property
    def key(self) -> WorkerKey:
        """What its worker must be bound to."""
        units = self.scheduling_class.resources.get(CPU, 0)
        threads = max(1, units // UNITS_PER_ONE)
        return WorkerKey(self.scheduling_class.environment, tuple(d.uuid for d in self.devices), threads)


def describe_exit(event: ProcessExited) -> str:
    """Return how a process ended, as people read it."""
    if event.signal is None:
        return "exited" if event.exit_code is None else f"exited with code {event.exit_code}"
    try:
        name = signal.Signals(event.signal).name
    except ValueError:
        name = f"signal {event.signal}"
    hints = {
        "SIGKILL": "; the host may have run out of memory, or somebody ended it",
        "SIGSEGV": "; code that it called crashed outside Python",
        "SIGABRT": "; code that it called gave up outside Python",
        "SIGBUS": "; it touched memory that is not there",
    }
    return f"was ended by {name} (signal {event.signal}){hints.get(name, '')}"
