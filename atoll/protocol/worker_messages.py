"""Control messages between a worker and the agent of its node about leases and actors. Part of `messages`.

worker ─▶ agent      WorkerStarted ActorConstructed ReportSpans
agent ─▶ worker      BeginLease FinishLease ConstructActor StopWorker
"""

from __future__ import annotations

from atoll.protocol.message import Message
from atoll.protocol.values import ActorSpec, DeviceShare, Span
from atoll.resources import Amounts


class WorkerStarted(Message, frozen=True):
    """A forked worker is connected and listens at `address`. Its process id is the worker id it was forked with."""

    address: str
    pid: int


class BeginLease(Message, frozen=True):
    """What the worker does from now on is for this lease: its job, its devices, its CPUs, its placement group.

    With `capture`, what it submits takes from the same group unless it says otherwise.
    """

    lease_id: int
    job: bytes
    resources: Amounts
    devices: list[DeviceShare]
    label: str
    group: bytes = b""
    capture: bool = False
    namespace: str = ""


class FinishLease(Message, frozen=True):
    """The lease is over; forget what belongs to it."""

    lease_id: int


class ConstructActor(Message, frozen=True):
    """Make the actor in this process; it is what the process is for from now on."""

    lease_id: int
    spec: ActorSpec
    incarnation: int


class ActorConstructed(Message, frozen=True):
    """The constructor returned, or raised `error` (serialized; `text` in one line).

    `offloads` says whether the actor can give its devices up itself.
    """

    actor_id: bytes
    text: str = ""
    error: bytes = b""
    offloads: bool = False


class ReportSpans(Message, frozen=True):
    """What the worker ran since its last report."""

    spans: list[Span]


class StopWorker(Message, frozen=True):
    """Exit as soon as nothing runs."""
