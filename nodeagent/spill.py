"""Spill files: copies of objects on disk, written whole or not at all, and never believed without a look.

A file is written under another name, made safe with fsync and then renamed, so that one with its own name is whole.
Each object in it has checksums, one for each piece of some megabytes, which stay with the agent: what was torn, flipped
or exchanged on disk is found out before anybody reads it (claim R10). Files are 0600 in a directory that only the user
can enter (claim S10).

The directory is `spill` in the cluster's session directory, which goes with the cluster however that ends. If the user
named another place, or the session directory lies in memory, `spill` is a link to a directory there, which
`remove_session_directory` removes too. Its lock is held as long as the agent lives: what nobody holds, the next agent
removes.

Everything here may take long and runs in threads. Bytes go by `pread` and `pwrite` between the segments' descriptors
and the file, through a buffer: nothing is mapped, so that nothing of it counts as the agent's memory. Reading, writing
and summing let the other threads run meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from atoll.exceptions import InsecureDirectoryError
from atoll.protocol.runtime_directory import SPILL_LINK, SPILL_PREFIX, check_directory, make_spill_directory

PIECE_BYTES = 4 * 2**20
"""What is copied and summed at once."""

_SUM_BYTES = 4
_LOCK = "lock"


class SpillError(Exception):
    """A file cannot be written or its content is not what was written; one line for people."""


class SpillFiles:
    """The spill files of an agent. Its methods may run in several threads at once, for different files.

    Args:
        session_directory: Of the cluster.
        chosen: Where the user wants the files; None for the session directory.

    Attributes:
        given_up: Set at the end: what is being written is not wanted.
    """

    def __init__(self, session_directory: Path, chosen: Path | None = None) -> None:
        self._session_directory = session_directory
        self._chosen = chosen
        self._directory = session_directory / SPILL_LINK
        self._lock = -1
        self.given_up = False

    def prepare(self) -> None:
        """Make the directory, and remove what an earlier agent of this cluster has left there.

        Raises:
            SpillError: It cannot be made.
        """
        if self._lock >= 0:
            return
        try:
            chosen = self._chosen or _if_in_memory(self._session_directory)
            self._directory = make_spill_directory(self._session_directory, chosen)
            self._lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            for left in self._directory.glob("*.*"):
                left.unlink()
            _remove_abandoned(self._directory)
        except (OSError, InsecureDirectoryError) as error:
            raise SpillError(f"no directory for spill files can be made: {error}") from None

    def _path(self, file_id: int) -> Path:
        return self._directory / f"{file_id:08d}.spill"

    def write(self, file_id: int, pieces: list[tuple[int, int, int]]) -> list[bytes]:
        """Copy pieces of segments into a new file, one behind the other.

        Args:
            file_id: The file.
            pieces: Descriptor of a segment, offset and size in bytes of each.

        Returns:
            The checksums of each piece, for `read`.

        Raises:
            SpillError: The disk is full or does not work; nothing of the file is left.
        """
        path = self._path(file_id)
        partial = path.with_suffix(".partial")
        try:
            file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                checksums = [self._copy_out(*piece, file) for piece in pieces]
                os.fsync(file)
            finally:
                os.close(file)
            partial.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise SpillError(_why_not_written(error, self._directory)) from None
        return checksums

    def _copy_out(self, segment: int, offset: int, size_bytes: int, file: int) -> bytes:
        buffer = memoryview(bytearray(min(PIECE_BYTES, size_bytes)))
        sums = bytearray()
        for start, size in _parts(size_bytes):
            if self.given_up:
                raise OSError(errno.EINTR, "the agent ends")
            part = buffer[:size]
            if os.preadv(segment, [part], offset + start) != size:
                raise OSError(errno.EIO, "a segment is shorter than it should be")
            sums += zlib.crc32(part).to_bytes(_SUM_BYTES, "big")
            while part:
                part = part[os.write(file, part) :]
        return bytes(sums)

    def read(self, file_id: int, file_offset: int, checksum: bytes, piece: tuple[int, int, int]) -> None:
        """Copy an object back into a segment.

        Args:
            file_id: The file.
            file_offset: Where in it.
            checksum: As `write` has returned it.
            piece: Descriptor of the segment, offset and size in bytes.

        Raises:
            SpillError: The file is gone, too short, or has other bytes than were written. What lies in the segment
                then is not to be read by anybody.
        """
        path = self._path(file_id)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _copy_in(file, file_offset, checksum, piece)
            finally:
                os.close(file)
        except OSError as error:
            raise SpillError(f"its spill file {path.name} cannot be read: {error.strerror}") from None

    def delete(self, file_id: int) -> None:
        """Remove a file."""
        with contextlib.suppress(OSError):
            self._path(file_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all files and the directory. Nobody writes or reads any more."""
        if self._lock < 0:
            return
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def _remove_abandoned(directory: Path) -> None:
    """Remove what agents that were cut off with their machine have left beside ours: nobody holds its lock."""
    for other in directory.parent.glob(f"{SPILL_PREFIX}*"):
        if other == directory:
            continue
        with contextlib.suppress(OSError, InsecureDirectoryError):
            check_directory(other)
            lock = os.open(other / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)
            finally:
                os.close(lock)


def _if_in_memory(directory: Path) -> Path | None:
    """Return a place on disk if the session directory lies in memory, where spilling would be of no use."""
    fallback = Path("/var/tmp")  # noqa: S108 - the directory in it is refused unless it is ours alone
    return fallback if _lies_in_memory(directory) and not _lies_in_memory(fallback) else None


def _lies_in_memory(path: Path) -> bool:
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(mount.split(" - ")[1].split()[0] in {"tmpfs", "ramfs"} for mount in mounts if mount.split()[2] == number)


def _parts(size_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size_bytes, PIECE_BYTES):
        yield start, min(PIECE_BYTES, size_bytes - start)


def _copy_in(file: int, file_offset: int, checksum: bytes, piece: tuple[int, int, int]) -> None:
    segment, offset, size_bytes = piece
    buffer = memoryview(bytearray(min(PIECE_BYTES, size_bytes)))
    for number, (start, size) in enumerate(_parts(size_bytes)):
        part = buffer[:size]
        filled = 0
        while filled < size:
            count = os.preadv(file, [part[filled:]], file_offset + start + filled)
            if not count:
                raise SpillError("its spill file is torn: the end is missing")
            filled += count
        if zlib.crc32(part).to_bytes(_SUM_BYTES, "big") != checksum[number * _SUM_BYTES : (number + 1) * _SUM_BYTES]:
            raise SpillError("its spill file is damaged: its checksum is not that of what was written")
        written = 0
        while written < size:
            written += os.pwrite(segment, part[written:], offset + start + written)


def _why_not_written(error: OSError, directory: Path) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"the disk of {directory.resolve()} is full ({error.strerror})"
    return f"a spill file cannot be written in {directory.resolve()}: {error.strerror}"
