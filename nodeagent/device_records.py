"""What devices have failed at, in files that outlive the agent: one for each device, beside its lock.

A device is no better because an agent or a cluster was started anew. So the record lies where the lock does, in a
directory that is ours alone, and whichever agent of ours comes next on this host reads it. It counts until the host is
started again, which resets devices; then the monotonic clock, by which it tells times, has begun anew as well.

Two clusters may write of one device. A quarantine is not shortened by who does not know of it; who lifts it, lifts it
for all that come.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from atoll.exceptions import InsecureDirectoryError
from atoll.nodeagent import processes
from atoll.nodeagent.core.events import DeviceRecord
from atoll.nodeagent.device_locks import file_name_of
from atoll.protocol.runtime_directory import open_private

MAXIMUM_BYTES = 64 * 1024
_logger = logging.getLogger("atoll.nodeagent")


class _File(msgspec.Struct):
    """A record as it is written.

    Attributes:
        boot: Of which run of the system the instants are.
        record: What is held against the device.
    """

    boot: str
    record: DeviceRecord


class DeviceRecords:
    """The records of this host's devices. Calls may block for a moment.

    Args:
        directory: Where they are; it was checked to be ours alone.
        boot: Says which run of the system this is.
    """

    def __init__(self, directory: Path, boot: Callable[[], str] = processes.boot) -> None:
        self._directory = directory
        self._boot = boot

    def read(self, uuids: list[str]) -> list[DeviceRecord]:
        """Return what is held against devices. What cannot be read is nothing; the log says so."""
        return [record for uuid in uuids if (record := self._read(uuid)) is not None]

    def _read(self, uuid: str) -> DeviceRecord | None:
        path = self._path(uuid)
        try:
            with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
                content = msgspec.json.decode(file.read(MAXIMUM_BYTES), type=_File)
            return content.record if content.boot == self._boot() and content.record.uuid == uuid else None
        except FileNotFoundError:
            return None
        except (OSError, InsecureDirectoryError, msgspec.DecodeError) as error:
            _logger.warning("%s does not tell what GPU %s has failed at: %s", path, uuid, error)
            return None

    def remember(self, record: DeviceRecord) -> None:
        """Write down what is held against a device, unless a longer quarantine is written there already."""
        known = self._read(record.uuid)
        if known is not None and known.until > record.until:
            return
        path = self._path(record.uuid)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            content = msgspec.json.encode(_File(self._boot(), record))
            with os.fdopen(open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(content)
            part.rename(path)
        except (OSError, InsecureDirectoryError) as error:
            part.unlink(missing_ok=True)
            _logger.warning("what GPU %s has failed at will be forgotten with this agent: %s", record.uuid, error)

    def forget(self, uuid: str) -> None:
        """Nothing is held against a device any more."""
        try:
            self._path(uuid).unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("what GPU %s has failed at is still written down: %s", uuid, error)

    def _path(self, uuid: str) -> Path:
        return self._directory / f"{file_name_of(uuid)}.faults"
