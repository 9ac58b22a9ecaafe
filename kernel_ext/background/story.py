"""What is known of a background cell, from its record and the cluster's state. Pure: pieces and states in, facts out.

sent ─▶ waiting ─▶ running ─▶ done, failed, cancelled
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from atoll.kernel_ext.cell_course import ATTEMPT, read_attempt
from atoll.kernel_ext.engine.contract import Glance
from atoll.kernel_ext.records import BEGIN, END, Ending, Head, read_ending, read_head
from atoll.progress_messages import PROGRESS, Progress, read_progress
from atoll.protocol.state import ActorState, LeaseState
from atoll.protocol.values import CELLS_NAMESPACE

NAMESPACE = CELLS_NAMESPACE
"""Where the actors that run background cells have their names: the cells' numbers."""

WAITS = " waits"
"""Ends the name of the actor in which a cell waits for the results of others."""

SENT, WAITING, RUNNING, DONE, FAILED, CANCELLED = "sent", "waiting", "running", "done", "failed", "cancelled"

KEPT_SAMPLES = 24
MISSING_AFTER_S = 10.0
"""A cell that the cluster does not know so long after it was sent is lost."""


@dataclass(frozen=True)
class Sample:
    """How busy a cell's worker was.

    Attributes:
        cpu_percent: 100 for one core.
        gpu_percent: The mean of its devices; None without one.
        memory_bytes: Of the process.
    """

    cpu_percent: float
    gpu_percent: float | None
    memory_bytes: int


@dataclass
class CellStory:
    """One background cell.

    Attributes:
        record: Its number.
        name: What it is called.
        label: What the cluster calls it.
        sent_at: Wall clock.
        host: The actor inside of which it runs, for `on=`; empty for a process of its own.
        waits_for: What it waits for before it asks for resources, for people.
        notify: Whether the browser is to tell of its end.
        phase: See above.
        reason: Why it waits.
        node: Where it runs.
        devices: Its GPUs.
        began_at: When it was first seen to run, wall clock.
        ended_at: When its end was seen.
        ending: How it ended; None if it has not, or its process died.
        death: What its process died of.
        samples: The last ones.
        progress: What it has said of that.
    """

    record: str
    name: str
    label: str
    sent_at: float
    host: str = ""
    waits_for: str = ""
    notify: bool = False
    phase: str = SENT
    reason: str = ""
    node: str = ""
    devices: tuple[int, ...] = ()
    began_at: float | None = None
    ended_at: float | None = None
    ending: Ending | None = None
    death: str = ""
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT_SAMPLES))
    progress: Progress | None = None
    _seen: bool = False

    @classmethod
    def of(cls, record: str, head: Head) -> CellStory:
        """Return what the first piece of a cell's record tells."""
        return cls(record, head.name, head.label, head.sent_at, head.host, head.waits_for, head.notify)

    @property
    def head(self) -> Head:
        """What stands first in its record."""
        return Head(self.name, self.label, self.sent_at, self.host, self.waits_for, self.notify)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.phase in (DONE, FAILED, CANCELLED)

    @property
    def seconds(self) -> float:
        """How long it ran, as far as that is known."""
        if self.ending is not None and self.ending.seconds:
            return self.ending.seconds
        began = self.began_at if self.began_at is not None else self.sent_at
        return max(0.0, (self.ended_at if self.ended_at is not None else began) - began)

    def take(self, kind: str, payload: bytes, now: float) -> None:
        """Take a piece of its record.

        Args:
            kind: Of the piece.
            payload: Likewise.
            now: Wall clock.
        """
        if kind == BEGIN:
            self._introduce(read_head(payload))
            return
        if kind == END:
            self._end(read_ending(payload), now)
            return
        if kind == ATTEMPT and not self.ended:
            self.phase, self.began_at = RUNNING, read_attempt(payload).at
        if kind == PROGRESS:
            self.progress = read_progress(payload)
        if not self.ended and self.phase != RUNNING:  # it shows something, so it runs
            self.phase = RUNNING
            self.began_at = now

    def _introduce(self, head: Head) -> None:
        self.name, self.label, self.host = head.name, head.label, head.host
        self.sent_at, self.waits_for, self.notify = head.sent_at, head.waits_for, head.notify

    def _end(self, ending: Ending, now: float) -> None:
        self.ending = ending
        self.ended_at = now
        cancelled = ending.kind == "KeyboardInterrupt"
        self.phase = CANCELLED if cancelled else (DONE if ending.status == "done" else FAILED)

    def lose(self, death: str, now: float) -> None:
        """Its process is gone without an end of the cell."""
        if not self.ended:
            self.death = death
            self.ended_at = now
            self.phase = FAILED

    def look(self, glance: Glance) -> str:
        """Take the cluster's state.

        Returns:
            What its process died of, if it did: the caller reads what is left of the record before it believes it.
        """
        if self.ended:
            return ""
        if self.host:
            self._look_inside(glance)
            return ""
        own = {actor.name: actor for actor in glance.actors if actor.namespace == NAMESPACE}
        actor = own.get(self.record)
        room = own.get(self.record + WAITS)
        if actor is None and room is not None and room.state != "dead":
            self._seen = True
            self.phase, self.reason = WAITING, f"for {self.waits_for}"
            return ""
        if actor is None:
            missing = self._seen or glance.now - self.sent_at > MISSING_AFTER_S
            cause = room.cause if room is not None else ""
            return (cause or "the cluster knows nothing of it any more") if missing else ""
        self._seen = True
        if actor.state == "dead":
            return actor.cause or "its process ended"
        self._placed(actor, glance)
        return ""

    def _placed(self, actor: ActorState, glance: Glance) -> None:
        lease = next((lease for lease in glance.leases if lease.actor == actor.actor_id), None)
        if lease is None or actor.state != "alive":
            demand = next((d for d in glance.demands if d.label == self.label and d.job == actor.job), None)
            if demand is not None:
                self.phase, self.reason = WAITING, demand.reason
            elif lease is not None:
                self.phase, self.reason = WAITING, "its process begins"
            return
        self._runs(lease, glance)

    def _look_inside(self, glance: Glance) -> None:
        actor = next((a for a in glance.actors if a.name == self.host and a.state != "dead"), None)
        lease = next((each for each in glance.leases if actor and each.actor == actor.actor_id), None)
        if lease is not None and (self.phase == RUNNING or lease.doing == self.label):
            self._runs(lease, glance)
        else:
            self.phase, self.reason = WAITING, f"{self.host} is busy"

    def _runs(self, lease: LeaseState, glance: Glance) -> None:
        if self.phase != RUNNING:
            self.phase = RUNNING
            self.began_at = max(lease.since, self.sent_at)
        node = next((node for node in glance.nodes if node.node_id == lease.node_id), None)
        self.node = node.name if node is not None else lease.node_id[:6]
        self.devices = tuple(lease.devices)
        busy = [device.use_percent for device in (node.devices if node else ()) if device.index in lease.devices]
        gpu = sum(busy) / len(busy) if busy else None
        self.samples.append(Sample(lease.cpu_percent, gpu, lease.memory_bytes))
