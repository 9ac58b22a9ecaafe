"""Which devices nobody is given: those that fail again and again, and those whose memory does not come back.

    fault ─▶ counted for ten minutes ──the third──▶ quarantined ──an hour, or somebody lifts it──▶ given again
    memory of an ended worker not free in time ──▶ quarantined ──it is free, or somebody lifts it──▶ given again

Only what is the device's fault counts. A program that reads beyond its memory costs its worker, not the device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
        faults: When it failed, and at what, the oldest first.
        until: Until when it is quarantined for that; None if it is not.
        lingering: What of its memory did not come back, in words; empty if nothing.
    """

    faults: deque[tuple[Instant, str]] = field(default_factory=deque)
    until: Instant | None = None
    lingering: str = ""


class DeviceHealth:
    """Remembers what devices have failed at, and says which of them are not to be given."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def failed(self, uuid: str, text: str, now: Instant) -> bool:
        """A device has failed, and it was its own fault.

        Returns:
            Whether it is quarantined for that from now on.
        """
        record = self._records.setdefault(uuid, _Record())
        record.faults.append((now, text))
        while record.faults[0][0] + FAULTS_WITHIN_S <= now:
            record.faults.popleft()
        if len(record.faults) < MAXIMUM_FAULTS or record.until is not None:
            return False
        record.until = Instant(now + QUARANTINE_S)
        return True

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
        return self._records.pop(uuid, None) is not None

    def trouble(self, uuid: str) -> str:
        """Return why a device is not given, in words; empty if it may be."""
        record = self._records.get(uuid)
        if record is None:
            return ""
        if record.until is not None:
            count = len(record.faults)
            return f"quarantined after {count} faults, the last: {record.faults[-1][1]}"
        return f"quarantined: {record.lingering}" if record.lingering else ""

    def next_deadline(self) -> Instant | None:
        """Return when the next quarantine ends."""
        return min((record.until for record in self._records.values() if record.until is not None), default=None)

    def tick(self, now: Instant) -> None:
        """End the quarantines that have lasted."""
        for record in self._records.values():
            if record.until is not None and record.until <= now:
                record.until = None
                record.faults.clear()
