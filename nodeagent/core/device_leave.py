"""Idle actors give their devices up for a while and take them back at the next call.

              idle for long                 done, memory is free              a call comes
    present ───────────────▶ offloading ─▶ measuring ───────────────▶ away ───────────────▶ waiting
       ▲  ▲                      │  failed      │ too much is left     DevicesReleased         │ DevicesReturned
       │  └──────── kept ◀───────┴──────────────┘                      DevicesWanted           ▼
       └────────────────────────────────────── restored ◀────────────────────────────── restoring ─ failed ─▶ ended

Two ways, one interface. An actor with methods `offload()` and `restore()` does it itself, between two calls. For any
other the driver does it: it copies what the process has on its devices into the host's memory and back, while the
process makes no calls (`CheckpointDevices`, `RestoreCheckpoint`). An actor that has neither way is refused when it is
made.

The worker holds the calls that come meanwhile, and says that it wants its devices when the first comes. An actor takes
back the very devices that it had: its process has been bound to them for life, and what it keeps names them.

A failure to give up costs nothing but the try: the actor keeps its devices, and is not asked again. A failure to take
back costs the process: nobody knows what it still has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from atoll.nodeagent.core.events import (
    CheckpointDevices,
    DeviceMemoryMeasured,
    DevicesCheckpointed,
    MeasureDeviceMemory,
    RestoreCheckpoint,
)
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.leave_messages import (
    DevicesKept,
    DevicesOffloaded,
    DevicesReleased,
    DevicesRestored,
    DevicesWanted,
    OffloadDevices,
    RestoreDevices,
)
from atoll.protocol.machine import Instant, Peer
from atoll.resources import format_bytes

LEFT_BYTES = 2**30
"""What an actor that gives its memory up itself may leave: the context of a CUDA process takes some hundred MiB."""

PRESENT, OFFLOADING, MEASURING, AWAY, WAITING, RESTORING, KEPT = (
    "present",
    "offloading",
    "measuring",
    "away",
    "waiting",
    "restoring",
    "kept",
)

GONE_STATES = (AWAY, WAITING)
"""In these the devices are others'."""


@dataclass(slots=True)
class Leave:
    """An actor that may give its devices up.

    Attributes:
        peer: Its worker's connection.
        pid: Its worker's process.
        uuids: Its devices.
        idle_s: So long without a call it keeps them.
        idle_since: When the last call ended, as far as reports tell.
        state: As drawn above; `kept` is as `present`, but it is not asked again.
        own: Whether it does it itself.
        wanted: Whether a call has come while its devices were on their way out.
        failed: Why it keeps them, once they are back.
    """

    peer: Peer
    pid: int
    uuids: list[str]
    idle_s: float
    idle_since: Instant
    state: str = PRESENT
    own: bool = False
    wanted: bool = False
    failed: str = ""


class DeviceLeaves:
    """All actors of the node that may give their devices up.

    Args:
        outbox: Where messages and the driver's work go.
        no_checkpoint: Why the driver cannot do it here; empty if it can.
    """

    def __init__(self, outbox: Outbox, no_checkpoint: str) -> None:
        self._outbox = outbox
        self.no_checkpoint = no_checkpoint
        self._leaves: dict[int, Leave] = {}

    def begin(self, lease_id: int, leave: Leave) -> None:
        """An actor has been made."""
        self._leaves[lease_id] = leave

    def forget(self, lease_id: int) -> None:
        """An actor's process is gone."""
        self._leaves.pop(lease_id, None)

    def gone(self) -> Iterable[tuple[int, bool]]:
        """Return the leases whose devices are others', and whether they are wanted back."""
        return [(key, leave.state == WAITING) for key, leave in self._leaves.items() if leave.state in GONE_STATES]

    def tell_kept(self) -> None:
        """Tell a scheduler that has come back which actors keep their devices."""
        for lease_id, leave in self._leaves.items():
            if leave.state == KEPT:
                self._outbox.tell_scheduler(DevicesKept(lease_id, leave.failed))

    # ------------------------------------------------------------------------------------------------ giving up

    def busy(self, lease_id: int, now: Instant) -> None:
        """The actor's worker has reported something that it ran."""
        leave = self._leaves.get(lease_id)
        if leave is not None:
            leave.idle_since = now

    def next_deadline(self) -> Instant | None:
        """Return when the next one has been idle for long enough."""
        waiting = [leave.idle_since + leave.idle_s for leave in self._leaves.values() if leave.state == PRESENT]
        return Instant(min(waiting)) if waiting else None

    def tick(self, now: Instant) -> None:
        """Ask those that have been idle for long enough."""
        for lease_id, leave in self._leaves.items():
            if leave.state == PRESENT and leave.idle_since + leave.idle_s <= now:
                leave.state = OFFLOADING
                leave.wanted = False
                self._outbox.send(leave.peer, OffloadDevices(lease_id))

    def offloaded(self, message: DevicesOffloaded, now: Instant) -> None:
        """The worker has done its part: it holds calls from now on, and has given up what it does itself."""
        leave = self._leaves.get(message.lease_id)
        if leave is None or leave.state != OFFLOADING:
            return
        leave.own = message.own
        if message.busy:
            leave.state, leave.idle_since = PRESENT, now
        elif message.text:
            leave.failed = f"offload() raised {message.text}"
            self._keep(message.lease_id, leave)
        elif message.own:
            self._measure(message.lease_id, leave)
        else:
            self._outbox.do(CheckpointDevices(message.lease_id, leave.pid))

    def checkpointed(self, event: DevicesCheckpointed) -> str:
        """The driver has given up, or taken back, what a process had. Returns why its process must end, or nothing."""
        leave = self._leaves.get(event.lease_id)
        if leave is None:
            return ""
        if leave.state == OFFLOADING and event.text:  # it was unlocked again, and has what it had
            leave.failed = event.text
            self._back(event.lease_id, leave)
        elif leave.state == OFFLOADING:
            self._measure(event.lease_id, leave)
        elif leave.state == RESTORING and event.text:
            return f"the driver could not give the contents of its GPUs back: {event.text}"
        elif leave.state == RESTORING:
            self._back(event.lease_id, leave)
        return ""

    def _measure(self, lease_id: int, leave: Leave) -> None:
        leave.state = MEASURING
        self._outbox.do(MeasureDeviceMemory(lease_id, leave.uuids, leave.pid))

    def measured(self, event: DeviceMemoryMeasured) -> bool:
        """Take a look at what is left on the devices. Returns whether they can be given to others now."""
        leave = self._leaves.get(event.lease_id)
        if leave is None or leave.state != MEASURING:
            return False
        left = {memory.uuid: memory.worker_bytes for memory in event.devices}
        most = max(left.values(), default=0)
        if len(left) < len(leave.uuids):
            leave.failed = "a device could not be read after it was given up"
        elif most > LEFT_BYTES:
            leave.failed = f"it left {format_bytes(most)} on a device"
        if leave.failed or leave.wanted:
            self._restore(event.lease_id, leave)
            return False
        leave.state = AWAY
        self._outbox.tell_scheduler(DevicesReleased(event.lease_id))
        return True

    # --------------------------------------------------------------------------------------------- taking back

    def wanted(self, lease_id: int) -> None:
        """A call has come."""
        leave = self._leaves.get(lease_id)
        if leave is None:
            return
        leave.wanted = True
        if leave.state == AWAY:
            leave.state = WAITING
            self._outbox.tell_scheduler(DevicesWanted(lease_id))

    def returned(self, lease_id: int) -> bool:
        """The scheduler gives the devices back. Returns whether they were waited for."""
        leave = self._leaves.get(lease_id)
        if leave is None or leave.state != WAITING:
            return False
        self._restore(lease_id, leave)
        return True

    def _restore(self, lease_id: int, leave: Leave) -> None:
        leave.state = RESTORING
        if leave.own:
            self._outbox.send(leave.peer, RestoreDevices(lease_id))
        else:
            self._outbox.do(RestoreCheckpoint(lease_id, leave.pid))

    def _back(self, lease_id: int, leave: Leave) -> None:
        """What the driver does is done: the worker goes on."""
        leave.state = RESTORING
        self._outbox.send(leave.peer, RestoreDevices(lease_id))

    def restored(self, message: DevicesRestored, now: Instant) -> str:
        """The worker has what it had, and goes on. Returns why its process must end instead, or nothing."""
        leave = self._leaves.get(message.lease_id)
        if leave is None or leave.state != RESTORING:
            return ""
        if message.text:
            return f"restore() raised {message.text}"
        leave.state = PRESENT
        leave.idle_since = now
        leave.wanted = False
        if leave.failed:
            self._keep(message.lease_id, leave)
        return ""

    def _keep(self, lease_id: int, leave: Leave) -> None:
        """The actor is not asked again, and whoever looks at it is told why."""
        leave.state = KEPT
        self._outbox.tell_scheduler(DevicesKept(lease_id, leave.failed))
