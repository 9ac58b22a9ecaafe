"""Which devices nobody is given: those that fail again and again, and those whose memory does not come back.

    fault ─▶ counted for ten minutes ──the third──▶ quarantined ──an hour, or somebody lifts it──▶ given again
    memory of an ended worker not free in time ──▶ quarantined ──it is free, or somebody lifts it──▶ given again

Only what is the device's fault counts. A program that reads beyond its memory costs its worker, not the device.

What a device has failed at is written down and outlives the agent: a device is no better for it. Memory that did not
come back is not: the next agent sees it itself, as memory that is in use by none of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from atoll.nodeagent.core.events import DeviceRecord, ForgetDevice, RememberDevice
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant

MAXIMUM_FAULTS = 3
FAULTS_WITHIN_S = 600.0
"""A device that has failed so often in so long a time is not given any more."""

QUARANTINE_S = 3600.0
"""Then it is tried again: a driver that was reset meanwhile is as good as new."""


@dataclass(slots=True)
class _Record:
    """What is held against a device.

    Attributes:
        faults: When it failed, and at what, the last ones, the oldest first.
        until: Until when it is quarantined for that; None if it is not.
        lingering: What of its memory did not come back, in words; empty if nothing.
    """

    faults: deque[tuple[Instant, str]] = field(default_factory=lambda: deque(maxlen=MAXIMUM_FAULTS))
    until: Instant | None = None
    lingering: str = ""


class DeviceHealth:
    """Remembers what devices have failed at, and says which of them are not to be given.

    Args:
        outbox: Where it is written down.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._records: dict[str, _Record] = {}

    def recall(self, records: Iterable[DeviceRecord], now: Instant) -> None:
        """Take what agents before this one have written down, as far as it still counts."""
        for known in records:
            if not known.faults or 0.0 < known.until <= now:
                continue  # the quarantine is over, and what led to it with it
            record = self._records[known.uuid] = _Record()
            # Whatever a file says, nothing is in the future, and no quarantine is longer than one.
            record.faults.extend((Instant(min(when, now)), text) for when, text in known.faults)
            record.until = Instant(min(known.until, now + QUARANTINE_S)) if known.until else None

    def failed(self, uuid: str, text: str, now: Instant) -> bool:
        """A device has failed, and it was its own fault.

        Returns:
            Whether it is quarantined for that from now on.
        """
        record = self._records.setdefault(uuid, _Record())
        record.faults.append((now, text))
        if record.until is not None:
            return False
        while record.faults[0][0] + FAULTS_WITHIN_S <= now:
            record.faults.popleft()
        if len(record.faults) == MAXIMUM_FAULTS:
            record.until = Instant(now + QUARANTINE_S)
        self._outbox.do(RememberDevice(DeviceRecord(uuid, list(record.faults), record.until or 0.0)))
        return record.until is not None

    def keep_away(self, uuid: str, text: str) -> None:
        """Memory of a device has not come back: nobody gets it until it has."""
        self._records.setdefault(uuid, _Record()).lingering = text

    def memory_is_back(self, uuid: str) -> None:
        """What had not come back has."""
        record = self._records.get(uuid)
        if record is not None:
            record.lingering = ""

    def lift(self, uuid: str) -> bool:
        """Somebody answers for the device: forget what is held against it. Returns whether there was anything."""
        self._outbox.do(ForgetDevice(uuid))
        return self._records.pop(uuid, None) is not None

    def trouble(self, uuid: str) -> str:
        """Return why a device is not given, in words; empty if it may be."""
        record = self._records.get(uuid)
        if record is None:
            return ""
        if record.until is not None:
            return f"quarantined after {len(record.faults)} faults, the last: {record.faults[-1][1]}"
        return f"quarantined: {record.lingering}" if record.lingering else ""

    def quarantined_for_s(self, uuid: str, now: Instant) -> float:
        """Return for how long a device is still not given; 0 if it is, or if nobody can tell."""
        record = self._records.get(uuid)
        return max(0.0, record.until - now) if record is not None and record.until is not None else 0.0

    def any_trouble(self) -> bool:
        """Whether there is a device that is not given."""
        return any(self.trouble(uuid) for uuid in self._records)

    def next_deadline(self) -> Instant | None:
        """Return when the next quarantine ends."""
        return min((record.until for record in self._records.values() if record.until is not None), default=None)

    def tick(self, now: Instant) -> None:
        """End the quarantines that have lasted."""
        for record in self._records.values():
            if record.until is not None and record.until <= now:
                record.until = None
                record.faults.clear()
