"""What something has to give: a node, or the part of a node that a placement group has reserved.

Amounts are kept in a pool; devices are kept apart, by UUID. One GPU or more means whole devices, held by nobody else;
less means a share of one device, and shares are put together on as few devices as possible, so that whole ones stay
whole. A request by device memory is a share too: as large as the memory is of the device that it gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from atoll.exceptions import InternalError
from atoll.protocol.values import Device, DeviceSample, DeviceShare, Outsider, SchedulingClass
from atoll.resources import GPU, GPU_MEMORY, UNITS_PER_ONE, Amounts, Pool, format_bytes
from atoll.scheduler.policy.devices import choose_devices, is_of_type

FOREIGN_BYTES = 512 * 2**20
"""What a driver or a desktop keeps of a device; more than that is somebody's work."""


NOTHING: Mapping[str, int] = {}


class Wanted(NamedTuple):
    """What a request takes, made ready for many comparisons.

    Attributes:
        amounts: In units; GPUs too, but not device memory.
        device_bytes: Memory of one device, taken as a share of it; with whole devices, the least that each must have.
        device_types: The models that will do, by any part of their names; empty for all.
    """

    amounts: Amounts
    device_bytes: int = 0
    device_types: tuple[str, ...] = ()

    @property
    def by_memory(self) -> bool:
        """Whether a share of a device is asked for in bytes."""
        return bool(self.device_bytes) and not self.amounts.get(GPU)

    @property
    def device_units(self) -> int:
        """Units of devices that are asked for by number; 0 if none, or by memory."""
        return self.amounts.get(GPU, 0)

    @property
    def needs_devices(self) -> bool:
        """Whether it takes any device."""
        return bool(self.device_bytes or self.amounts.get(GPU))


def wanted_of(scheduling_class: SchedulingClass) -> Wanted:
    """Return what a lease of a class takes."""
    amounts = scheduling_class.resources
    memory = amounts.get(GPU_MEMORY, 0)
    if memory:
        amounts = {name: units for name, units in amounts.items() if name != GPU_MEMORY}
    return Wanted(amounts, memory // UNITS_PER_ONE, tuple(scheduling_class.device_types))


def wanted_by(amounts: Amounts) -> Wanted:
    """Return what a bundle of a placement group takes."""
    return wanted_of(SchedulingClass(amounts, ""))


class DeviceCondition:
    """How a device is, whoever holds it: one for the node's own view of the device and for what is reserved of it.

    Attributes:
        foreign_bytes: Memory that processes outside of the cluster hold of it.
        outsiders: Those processes.
        trouble: Why nobody is given it, in words; empty if nothing is wrong with it.
        quarantined: Whether that is because it has failed too often.
        good: Whether all of it that nobody of ours holds can be given.
    """

    __slots__ = ("foreign_bytes", "good", "outsiders", "quarantined", "trouble")

    def __init__(self) -> None:
        self.good = True
        self.foreign_bytes = 0
        self.outsiders: list[Outsider] = []
        self.trouble = ""
        self.quarantined = False

    def observe(self, sample: DeviceSample) -> bool:
        """Take a sample. Returns whether more of the device can be given than before."""
        foreign = sample.foreign_memory_bytes if sample.foreign_memory_bytes > FOREIGN_BYTES else 0
        better = foreign < self.foreign_bytes or (bool(self.trouble) and not sample.trouble)
        self.foreign_bytes, self.outsiders = foreign, sample.outsiders if foreign else []
        self.trouble, self.quarantined = sample.trouble, sample.quarantined
        self.good = not (self.trouble or self.foreign_bytes)
        return better

    def lift(self) -> None:
        """Somebody answers for the device: it is given again, whatever was seen of it."""
        self.trouble, self.quarantined = "", False
        self.good = not self.foreign_bytes

    def text(self, device: Device) -> str:
        """Return in words what keeps the device from being given, empty if nothing does."""
        if self.trouble:
            remedy = f" (`atoll gpu release {device.uuid}` gives it again)" if self.quarantined else ""
            return f"GPU {device.index} is {self.trouble}{remedy}"
        if not self.foreign_bytes:
            return ""
        who = " and ".join(map(str, self.outsiders[:2])) or "processes"
        more = f" and {len(self.outsiders) - 2} more" if len(self.outsiders) > 2 else ""
        size, total = format_bytes(self.foreign_bytes), format_bytes(device.memory_bytes)
        return f"GPU {device.index}: {size} of {total} in use by {who}{more} outside of Atoll"


class DeviceUse:
    """A device, or the share of one that is reserved, and the leases that hold it, in units.

    Attributes:
        capacity: What there is of it: `UNITS_PER_ONE` unless this is a share.
        condition: How the device is.
    """

    __slots__ = ("capacity", "condition", "device", "free", "held")

    def __init__(self, device: Device, capacity: int = UNITS_PER_ONE, condition: DeviceCondition | None = None) -> None:
        self.device = device
        self.capacity = capacity
        self.condition = condition or DeviceCondition()
        self.free = capacity
        self.held: dict[int, int] = {}

    def copy(self) -> DeviceUse:
        """Return the same, to try things on."""
        made = DeviceUse(self.device, self.capacity, self.condition)
        made.free, made.held = self.free, dict(self.held)
        return made

    def share(self, units: int) -> DeviceShare:
        """Return the device as a lease names it."""
        return DeviceShare(self.device.uuid, self.device.index, units, self.device.simulated)

    def units_of(self, size_bytes: int) -> int:
        """Return the share of the device that so many bytes of its memory are."""
        return -(-size_bytes * UNITS_PER_ONE // max(1, self.device.memory_bytes))

    @property
    def usable(self) -> int:
        """Units that are free and whose memory no process outside of the cluster holds."""
        condition = self.condition
        if condition.trouble:
            return 0
        return self.free - self.units_of(condition.foreign_bytes) if condition.foreign_bytes else self.free


class Holding:
    """What a lease or a bundle holds: nothing before `Supply.give`.

    What is `lent` to others is not part of `amounts`: a lease's CPU while it is `blocked`, an idle actor's devices
    (`away`) while it has given them up. Neither mapping is ever changed, since many holdings have the same.

    Attributes:
        supply: Of what.
        amounts: In units.
        shares: Its devices.
        blocked: Whether its task waits.
        lent: What it has lent.
        away: The devices that it has given up for a while.
    """

    __slots__ = ("amounts", "away", "blocked", "lent", "shares", "supply")

    supply: Supply

    def __init__(self) -> None:
        self.amounts = self.lent = NOTHING
        self.shares: list[DeviceShare] = []
        self.blocked = False
        self.away: Sequence[DeviceShare] = ()


class Supply:
    """A pool and devices.

    Args:
        total: Amounts, GPUs left out.
        devices: The devices; together they are the amount of GPU.

    Attributes:
        live: What is free, in units, as it changes; others only read it.
    """

    __slots__ = ("_parted", "devices", "live", "pool", "total")

    def __init__(self, total: Mapping[str, int], devices: Iterable[DeviceUse]) -> None:
        self.devices = {use.device.uuid: use for use in devices}
        self._parted = any(use.device.parent for use in self.devices.values())
        amounts = {name: units for name, units in total.items() if units > 0 and name != GPU}
        units = sum(use.capacity for use in self.devices.values())
        if units:
            amounts[GPU] = units
        self.pool = Pool(amounts)
        self.live = self.pool.live
        self.total = self.pool.total

    def copy(self) -> Supply:
        """Return a supply in the same state, to try things on."""
        made = Supply.__new__(Supply)
        made.total = self.total
        made.pool = self.pool.copy()
        made.live = made.pool.live
        made.devices = {uuid: use.copy() for uuid, use in self.devices.items()}
        made._parted = self._parted
        return made

    def could_ever_fit(self, wanted: Wanted) -> bool:
        """Whether the request fits while nothing is held, by us or by others."""
        if not self.pool.could_ever_fit(wanted.amounts):
            return False
        if not wanted.needs_devices:
            return not wanted.device_types or any(self._of_type(wanted))
        suitable = self._of_type(wanted)
        if wanted.by_memory:
            return any(use.units_of(wanted.device_bytes) <= use.capacity for use in suitable)
        units = wanted.device_units
        if units < UNITS_PER_ONE:
            return any(use.capacity >= units for use in suitable)
        return sum(use.capacity == UNITS_PER_ONE for use in suitable) * UNITS_PER_ONE >= units

    def fits(self, wanted: Wanted) -> bool:
        """Whether the request fits now."""
        free = self.live
        amounts, device_bytes, device_types = wanted
        for name, units in amounts.items():  # as `Pool.fits`; this is asked most often of all
            if free.get(name, 0) < units:
                return False
        if GPU not in amounts and not device_bytes:
            return not device_types or any(self._of_type(wanted))
        units = amounts.get(GPU, 0)
        uses = self._of_type(wanted) if device_bytes or device_types or self._parted else self.devices.values()
        if units < UNITS_PER_ONE:
            for use in uses:
                part = units or use.units_of(device_bytes)
                if use.free >= part and (use.condition.good or use.usable >= part):
                    return True
            return False
        for use in uses:
            if use.free == UNITS_PER_ONE and use.condition.good:
                units -= UNITS_PER_ONE
                if units <= 0:
                    return True
        return False

    def take(self, key: int, wanted: Wanted) -> Holding:
        """Give what is asked for to a new holder: see `give`."""
        holding = Holding()
        self.give(holding, key, wanted)
        return holding

    def give(self, holding: Holding, key: int, wanted: Wanted) -> None:
        """Give what is asked for; the caller has asked `fits`.

        Args:
            holding: Who gets it; it holds nothing yet.
            key: Under which devices remember it.
            wanted: What is asked for.
        """
        amounts: Mapping[str, int] = wanted.amounts
        if GPU in amounts or wanted.device_bytes:
            uses = self.devices_for(wanted)
            assert uses is not None, "what is taken fits"
            if GPU in amounts:
                part = min(amounts[GPU], UNITS_PER_ONE)
            else:
                part = uses[0].units_of(wanted.device_bytes)
                amounts = {**amounts, GPU: part}
            for use in uses:
                use.held[key] = part
                use.free -= part
            holding.shares = [use.share(part) for use in uses]
        live = self.live
        for name, units in amounts.items():
            live[name] -= units
        holding.supply, holding.amounts = self, amounts

    def give_again(self, holding: Holding, key: int, wanted: Wanted, shares: list[DeviceShare]) -> bool:
        """Note what is held already, from before a reconnection; False if its devices are not free."""
        if any(share.uuid not in self.devices or self.devices[share.uuid].free < share.units for share in shares):
            return False
        amounts: Mapping[str, int] = wanted.amounts
        if wanted.by_memory:
            amounts = {**amounts, GPU: sum(share.units for share in shares)}
        if sum(share.units for share in shares) != amounts.get(GPU, 0):
            return False
        for share in shares:
            use = self.devices[share.uuid]
            use.held[key] = share.units
            use.free -= share.units
        self.pool.take_anyway(amounts)
        holding.supply, holding.amounts, holding.shares = self, amounts, shares
        return True

    def give_back(self, key: int, holding: Holding) -> None:
        """Take back what was given."""
        live = self.live
        for name, units in holding.amounts.items():
            live[name] += units
        for share in holding.shares:
            use = self.devices[share.uuid]
            use.free += use.held.pop(key)

    def lend(self, holding: Holding, names: Iterable[str]) -> Amounts:
        """Let others use some of what is held, for a while. Returns what of these it had."""
        lent = {name: holding.amounts[name] for name in names if name in holding.amounts}
        self.pool.give_back(lent)
        holding.amounts = {name: units for name, units in holding.amounts.items() if name not in lent}
        holding.lent = {**holding.lent, **lent}
        return lent

    def reclaim(self, holding: Holding, names: Iterable[str]) -> Amounts:
        """Take again what was lent, also if it is in use: who has lent it goes on at once. Returns what it was."""
        taken = {name: holding.lent[name] for name in names if name in holding.lent}
        holding.lent = {name: units for name, units in holding.lent.items() if name not in taken}
        holding.amounts = {**holding.amounts, **taken}
        self.pool.take_anyway(taken)
        return taken

    def lend_devices(self, key: int, holding: Holding) -> Amounts:
        """Let others use the devices of a holder, for a while. Returns the amount that it had."""
        for share in holding.shares:
            use = self.devices[share.uuid]
            use.free += use.held.pop(key)
        holding.away, holding.shares = holding.shares, []
        return self.lend(holding, (GPU,))

    def reclaim_devices(self, key: int, holding: Holding) -> Amounts | None:
        """Take the same devices again. Returns the amount, or None if they are not free: a device has one user."""
        shares = holding.away
        if any(self.devices[share.uuid].usable < share.units for share in shares):
            return None
        for share in shares:
            use = self.devices[share.uuid]
            use.held[key] = share.units
            use.free -= share.units
        holding.shares, holding.away = list(shares), ()
        return self.reclaim(holding, (GPU,))

    def missing(self, wanted: Wanted) -> Amounts:
        """Return what is short for a request now, empty if it fits. Device memory is in units of bytes, as asked."""
        short = dict(self.pool.missing(wanted.amounts))
        if GPU in short or not wanted.needs_devices or self.devices_for(wanted) is not None:
            return short
        suitable = self._of_type(wanted)
        if wanted.by_memory:
            room = max((use.usable * use.device.memory_bytes // UNITS_PER_ONE for use in suitable), default=0)
            short[GPU_MEMORY] = max(1, wanted.device_bytes - max(0, room)) * UNITS_PER_ONE
        elif wanted.device_units < UNITS_PER_ONE:
            short[GPU] = wanted.device_units - max(0, *(use.usable for use in suitable), 0)
        else:
            whole = sum(use.usable == UNITS_PER_ONE for use in suitable)
            short[GPU] = wanted.device_units - whole * UNITS_PER_ONE
        return short

    def devices_for(self, wanted: Wanted) -> list[DeviceUse] | None:
        """Return the devices that a request would get now, or None."""
        suitable, units = self._of_type(wanted), wanted.amounts.get(GPU, 0)
        if units < UNITS_PER_ONE:
            least: tuple[int, int] | None = None
            chosen: DeviceUse | None = None
            for use in suitable:
                part = units or use.units_of(wanted.device_bytes)
                if use.free >= part:
                    usable = use.usable
                    if usable >= part and (least is None or (usable, use.device.index) < least):
                        least, chosen = (usable, use.device.index), use
            return [chosen] if chosen is not None else None
        whole = [use for use in suitable if use.free == UNITS_PER_ONE and use.condition.good]
        return choose_devices(whole, units // UNITS_PER_ONE)

    def _of_type(self, wanted: Wanted) -> list[DeviceUse]:
        """Return the devices that may do. CUDA uses one part of a device at a time, so several are never parts."""
        uses = list(self.devices.values())
        if not (wanted.device_types or wanted.device_bytes or self._parted):
            return uses
        if wanted.device_types:
            uses = [use for use in uses if any(is_of_type(use.device.model, kind) for kind in wanted.device_types)]
        if any(use.device.parent for use in uses):
            whole = [use for use in uses if not use.device.parent]
            if wanted.device_units > UNITS_PER_ONE or (whole and not wanted.device_types and not wanted.device_bytes):
                uses = whole
        if wanted.device_bytes and not wanted.by_memory:
            uses = [use for use in uses if use.device.memory_bytes >= wanted.device_bytes]
        return uses

    def obstacles(self, wanted: Wanted) -> list[str]:
        """Return in words what is the matter with the devices that would do and are not held by anybody of ours."""
        if not wanted.needs_devices:
            return []
        return [text for use in self._of_type(wanted) if (text := use.condition.text(use.device))]

    def check_invariants(self, name: str, holdings: Iterable[Holding]) -> None:
        """Raise `InternalError` unless what is held and what is free make up what there is."""
        held: Amounts = {}
        for holding in holdings:
            for resource, units in holding.amounts.items():
                held[resource] = held.get(resource, 0) + units
        free = self.pool.free
        for resource in {**free, **held}:
            if free.get(resource, 0) + held.get(resource, 0) != self.total.get(resource, 0):
                raise InternalError(f"{name}: {free.get(resource)} {resource} free and {held.get(resource)} held")
        for use in self.devices.values():
            if use.free < 0 or use.free + sum(use.held.values()) != use.capacity:
                raise InternalError(f"{name}: device {use.device.uuid} is held by {use.held}, {use.free} free")
            if len(use.held) > 1 and UNITS_PER_ONE in use.held.values():
                raise InternalError(f"{name}: whole device {use.device.uuid} has two holders")
