"""How a lease comes to its devices, and when they are free again.

    claim ──ClaimDevices──▶ claiming ──locked, free──▶ held ──the worker exits──▶ releasing ──memory is back──▶ free
                              │  ▲                      │ ▲                           │  ▲
                              └──┘ locked or in use     │ └─ the next lease ─┐        │  └─ it exits ─┐
                                   by others            └──── the lease ends and the worker stays ─▶ warm
                                                                                      └─ too long ─▶ quarantined

A device is locked (`atoll.nodeagent.device_locks`) before a worker is forked for it, and the worker inherits the lock:
while any process lives that may use the device, nobody else gets it, even if this agent is no more. A whole device
must also be free of memory that others hold; the scheduler knew what was so a moment ago.

When its worker is gone a device is not free yet: a driver frees the memory of a dead process a moment later, and
sometimes not at all. So what is in use is measured when a lease begins and again after its worker has exited, with
growing pauses, until what it took is back:

* a whole device is free when no more is in use than at the beginning, apart from what other living processes took
  since then;
* a share of a device is free when no process of the worker is listed on it any more.

Until then the lease has not ended, and the devices are nobody's.

A worker that holds little memory of its devices when its lease ends stays: loading its libraries again takes longer
than most cells. It is *warm*: the next lease of the same notebook, environment and devices has it at once. Its lease
is over, the devices are free in the scheduler's books, and who else is given one of them as a whole waits until the
worker has been ended and its memory is back.

Memory that does not come back within a minute
costs the device: the lease ends, and the device is quarantined until the memory is free after all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.nodeagent.core.device_health import DeviceHealth
from atoll.nodeagent.core.events import (
    ClaimDevices,
    DeviceMemory,
    DeviceMemoryMeasured,
    DevicesClaimed,
    MeasureDeviceMemory,
    UnlockDevices,
)
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant
from atoll.protocol.values import DeviceSample, DeviceShare
from atoll.resources import UNITS_PER_ONE, format_bytes

SLACK_BYTES = 64 * 2**20
"""What a driver may keep for itself after it was used."""

FOREIGN_BYTES = 512 * 2**20
"""What a desktop may hold of a device that is given as a whole; more than that is somebody's work."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

LOCKED_PATIENCE_S = 3.0
"""Workers of an agent that died hold their devices until they are dead, too, which takes two seconds at most."""

IN_USE_PATIENCE_S = 0.3
"""Memory of a process that ends just now is still listed for a moment."""

RELEASE_WITHIN_S = 60.0
"""A driver that has not freed a dead process's memory by then will not."""

WARM_BYTES = 768 * 2**20
"""A worker that holds no more of any device stays for the next lease: a context of CUDA takes hundreds of megabytes."""

CLAIMING, HELD, RELEASING, LINGERING = "claiming", "held", "releasing", "lingering"
LENT, WARM = "lent", "warm"
REFUSED = "refused"
OVER, LITTLE, MUCH = "over", "little", "much"


@dataclass(slots=True)
class Claim:
    """The devices of one lease.

    Attributes:
        shares: What it takes.
        state: `claiming`, `held`, `releasing`, `warm`, or `lingering` when the lease is over and the memory is not
            back; `lent` while an idle actor has given its devices up: its process lives, and so their locks stay.
        since: Since when.
        before: Device to its memory when the lease began.
        worker_pid: Its process, once that is known to be gone; 0 before.
        pause_s: Until the next look.
        look_at: When to look again; None while a look is under way or the worker lives.
    """

    shares: list[DeviceShare]
    since: Instant
    state: str = CLAIMING
    before: dict[str, DeviceMemory] = field(default_factory=dict)
    worker_pid: int = 0
    pause_s: float = FIRST_PAUSE_S
    look_at: Instant | None = None

    @property
    def uuids(self) -> list[str]:
        """The devices."""
        return [share.uuid for share in self.shares]


class Devices:
    """All devices of the node that leases hold, and what is held against the others.

    Args:
        outbox: Where locks and measurements are asked for.
        pids: Returns the processes of all workers.
    """

    def __init__(self, outbox: Outbox, pids: Callable[[], list[int]]) -> None:
        self._outbox = outbox
        self._pids = pids
        self._claims: dict[int, Claim] = {}
        self._warm: dict[bytes, int] = {}
        self._last_key = 0
        self.health = DeviceHealth(outbox)

    def in_use(self) -> tuple[str, ...]:
        """Return the devices that are locked, or are about to be, in order."""
        return tuple(dict.fromkeys(uuid for claim in self._claims.values() for uuid in claim.uuids))

    # --------------------------------------------------------------------------------------------- beginning

    def claim(self, lease_id: int, shares: list[DeviceShare], now: Instant) -> None:
        """A lease is to have devices. `claimed` says when it has them."""
        self._claims[lease_id] = Claim(shares, now)
        self._try(lease_id)

    def adopt(self, lease_id: int, worker_id: bytes, shares: list[DeviceShare], now: Instant) -> bool:
        """A lease gets a warm worker with its devices. False if one of them is not to be given or not free."""
        own = self._warm[worker_id]
        before = {share.uuid: share.units for share in self._claims[own].shares}
        for share in shares:
            if self.health.trouble(share.uuid):
                return False
            # Who had a share has never looked whether the rest is free.
            if share.units == UNITS_PER_ONE and (before[share.uuid] < share.units or self._is_left(share.uuid, own)):
                return False
        del self._warm[worker_id]
        claim = self._claims[lease_id] = self._claims.pop(own)
        claim.shares, claim.state, claim.since = shares, HELD, now
        return True

    def take_over(self, lease_id: int, worker_id: bytes, now: Instant) -> None:
        """A lease that has its devices gets a worker that became warm on them meanwhile: one claim of both is left.

        That is the worker's, which knows what was there before it.
        """
        own = self._warm.pop(worker_id, None)
        if own is not None:
            claim = self._claims.pop(own)
            claim.shares, claim.state, claim.since = self._claims[lease_id].shares, HELD, now
            self._claims[lease_id] = claim

    def _try(self, lease_id: int) -> None:
        claim = self._claims[lease_id]
        claim.look_at = None
        others = tuple(uuid for key, other in self._claims.items() if key != lease_id for uuid in other.uuids)
        self._outbox.do(ClaimDevices(lease_id, claim.uuids, self._pids(), others))

    def claimed(self, event: DevicesClaimed, now: Instant) -> tuple[str, str]:
        """Take the answer to `ClaimDevices`.

        Returns:
            `held`; or `claiming` while it is tried again; or `refused` and why, and then the claim is forgotten.
        """
        claim = self._claims.get(event.lease_id)
        if claim is None:  # the lease is over already
            self._unlock([sample.uuid for sample in event.samples] if not event.refused else [])
            return CLAIMING, ""
        if claim.state != CLAIMING:
            return claim.state, ""
        text, patience_s = self._obstacle(claim, event)
        if not text:
            claim.state, claim.since = HELD, now
            claim.before = {memory.uuid: memory for memory in event.memory}
            return HELD, ""
        self._unlock_but(event.lease_id, claim)
        if claim.since + patience_s <= now:
            del self._claims[event.lease_id]
            return REFUSED, text
        claim.look_at = Instant(now + claim.pause_s)
        claim.pause_s = min(2 * claim.pause_s, LONGEST_PAUSE_S)
        return CLAIMING, ""

    def _obstacle(self, claim: Claim, event: DevicesClaimed) -> tuple[str, float]:
        """Return what is in the way of a claim, in words, and for how long it is tried again."""
        samples = {sample.uuid: sample for sample in event.samples}
        for share in claim.shares:
            trouble = self.health.trouble(share.uuid)
            if trouble:
                return f"GPU {share.index} is {trouble}", 0.0
            if share.units == UNITS_PER_ONE and self._is_left(share.uuid):
                return f"GPU {share.index} is not free of the worker before", RELEASE_WITHIN_S
            if share.uuid in event.refused:
                return f"GPU {share.index} is {event.refused[share.uuid]}", LOCKED_PATIENCE_S
            sample = samples.get(share.uuid)
            if sample is None:
                return f"GPU {share.index} cannot be read", IN_USE_PATIENCE_S
            if share.units == UNITS_PER_ONE and sample.foreign_memory_bytes > FOREIGN_BYTES:
                return in_use_text(share.index, sample), IN_USE_PATIENCE_S
        return "", 0.0

    def _is_left(self, uuid: str, but: int = 0) -> bool:
        """Whether memory of a worker whose lease is over lies on a device, or may; of one other than `but`."""
        return any(key < 0 and key != but and uuid in claim.uuids for key, claim in self._claims.items())

    def forget(self, lease_id: int) -> None:
        """The lease never ran: nothing was taken."""
        claim = self._claims.pop(lease_id, None)
        if claim is not None:
            self._unlock(claim.uuids)

    def _unlock_but(self, lease_id: int, claim: Claim) -> None:
        """What was locked for a claim that must wait is free for others meanwhile."""
        held = {uuid for key, other in self._claims.items() if key != lease_id for uuid in other.uuids}
        self._do_unlock([uuid for uuid in claim.uuids if uuid not in held])

    def _unlock(self, uuids: list[str]) -> None:
        """Let go of the devices that no claim needs."""
        held = self.in_use()
        self._do_unlock([uuid for uuid in uuids if uuid not in held])

    def _do_unlock(self, uuids: list[str]) -> None:
        if uuids:
            self._outbox.do(UnlockDevices(uuids))

    def lend(self, lease_id: int) -> None:
        """An idle actor has given its devices up."""
        self._claims[lease_id].state = LENT

    def is_lent(self, lease_id: int) -> bool:
        """Whether an idle actor has given them up."""
        return self._claims[lease_id].state == LENT

    def take_back(self, lease_id: int) -> None:
        """They are its own again."""
        self._claims[lease_id].state = HELD

    def end_lent(self, lease_id: int) -> None:
        """The process of an actor that had given its devices up is gone: what it left goes with it."""
        self._unlock(self._claims.pop(lease_id).uuids)

    # ------------------------------------------------------------------------------------------------ the end

    def cool(self, lease_id: int, worker_pid: int) -> None:
        """A lease ends whose worker may stay: look how much it holds. `measured` says `little` or `much`."""
        self._outbox.do(MeasureDeviceMemory(lease_id, self._claims[lease_id].uuids, worker_pid))

    def keep_warm(self, lease_id: int, worker_id: bytes, now: Instant) -> None:
        """The lease is over, and its worker waits for the next one."""
        claim = self._claims.pop(lease_id)
        claim.state, claim.since = WARM, now
        self._last_key -= 1
        self._warm[worker_id] = self._last_key
        self._claims[self._last_key] = claim

    def warm_worker_gone(self, worker_id: bytes, worker_pid: int, now: Instant) -> None:
        """A worker has ended; if it was warm, look whether its memory is back."""
        key = self._warm.pop(worker_id, None)
        if key is not None:
            self.release(key, worker_pid, now)

    def release(self, lease_id: int, worker_pid: int, now: Instant) -> None:
        """The worker is gone: look whether its memory is."""
        claim = self._claims[lease_id]
        claim.state, claim.since = RELEASING, now
        claim.worker_pid = worker_pid
        claim.pause_s = FIRST_PAUSE_S
        self._look(lease_id, claim)

    def _look(self, lease_id: int, claim: Claim) -> None:
        claim.look_at = None
        self._outbox.do(MeasureDeviceMemory(lease_id, claim.uuids, claim.worker_pid))

    def measured(self, event: DeviceMemoryMeasured, now: Instant) -> str:
        """Take a measurement.

        Returns:
            `over` if the lease is: its devices are free, or quarantined; after `cool`, `little` or `much`; else
            nothing.
        """
        claim = self._claims.get(event.lease_id)
        if claim is not None and claim.state == HELD:
            told = {memory.uuid: memory.worker_bytes for memory in event.devices}
            return LITTLE if all(told.get(uuid, WARM_BYTES + 1) <= WARM_BYTES for uuid in claim.uuids) else MUCH
        if claim is None or claim.state not in {RELEASING, LINGERING}:
            return ""
        found = {memory.uuid: memory for memory in event.devices}
        taken = [
            share for share in claim.shares if not is_free(share, claim.before.get(share.uuid), found.get(share.uuid))
        ]
        for share in claim.shares:
            if share not in taken:
                self.health.memory_is_back(share.uuid)
        was_releasing = claim.state == RELEASING
        over = OVER if was_releasing and event.lease_id > 0 else ""
        if not taken:
            del self._claims[event.lease_id]
            self._unlock(claim.uuids)
            self._hasten(claim.uuids, now)
            return over
        claim.look_at = Instant(now + claim.pause_s)
        claim.pause_s = min(2 * claim.pause_s, LONGEST_PAUSE_S)
        if was_releasing and claim.since + RELEASE_WITHIN_S <= now:
            claim.state = LINGERING
            for share in taken:
                self.health.keep_away(share.uuid, _lingering_text(found.get(share.uuid), claim.worker_pid))
            return over
        return ""

    def _hasten(self, uuids: list[str], now: Instant) -> None:
        """Devices are free: who waits for them tries again now."""
        for claim in self._claims.values():
            if claim.state == CLAIMING and claim.look_at is not None and not set(uuids).isdisjoint(claim.uuids):
                claim.look_at = now

    # ------------------------------------------------------------------------------------------------- timers

    def next_deadline(self) -> Instant | None:
        """Return when to look again."""
        instants = [claim.look_at for claim in self._claims.values() if claim.look_at is not None]
        over = self.health.next_deadline()
        return min([*instants, over] if over is not None else instants, default=None)

    def tick(self, now: Instant) -> None:
        """Look again where it is due."""
        self.health.tick(now)
        for lease_id, claim in self._claims.items():
            if claim.look_at is not None and claim.look_at <= now:
                if claim.state == CLAIMING:
                    self._try(lease_id)
                else:
                    self._look(lease_id, claim)

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        held: dict[str, int] = {}
        for key, claim in self._claims.items():
            if key > 0 and claim.state in {HELD, RELEASING}:
                for share in claim.shares:
                    held[share.uuid] = held.get(share.uuid, 0) + share.units
        if any(units > UNITS_PER_ONE for units in held.values()):
            return f"a device is held more than once: {held}"
        warm = [key for key, claim in self._claims.items() if claim.state == WARM]
        if sorted(warm) != sorted(self._warm.values()):
            return f"the claims {warm} are warm, and those of warm workers are {list(self._warm.values())}"
        return None


def is_free(share: DeviceShare, before: DeviceMemory | None, after: DeviceMemory | None) -> bool:
    """Whether what a lease took of a device is back, as the head of this file says."""
    if after is None or after.worker_bytes:
        return False
    if share.units < UNITS_PER_ONE or before is None:
        return True
    taken_by_others = max(0, after.other_bytes - before.other_bytes)
    return after.used_bytes <= before.used_bytes + taken_by_others + SLACK_BYTES


def in_use_text(index: int, sample: DeviceSample) -> str:
    """Return who holds memory of a device that is none of ours, in words."""
    who = " and ".join(map(str, sample.outsiders[:2])) or "processes"
    more = f" and {len(sample.outsiders) - 2} more" if len(sample.outsiders) > 2 else ""
    return f"GPU {index}: {format_bytes(sample.foreign_memory_bytes)} are in use by {who}{more} outside of Atoll"


def _lingering_text(memory: DeviceMemory | None, pid: int) -> str:
    if memory is None:
        return f"it cannot be read since the worker {pid} ended"
    return f"memory of the worker {pid}, which has ended, is not free: {format_bytes(memory.used_bytes)} are in use"
