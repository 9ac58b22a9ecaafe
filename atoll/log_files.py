"""`atoll logs`: the last lines of several log files, and what comes after, through rotations.

A file stays open until its name belongs to another one, so a rotated file is read to its end before the new one
begins. Lines are held until they are whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from atoll.plain_text import printable

_DAEMONS = ("scheduler", "agent")
_TAIL_BYTES = 256 * 1024
_LINE_CHARACTERS = 2000


def log_files(directory: Path, of: str | None) -> list[Path]:
    """Return the current log files (not rotated ones): of one daemon, of the workers, or all.

    Args:
        directory: `<session directory>/logs`.
        of: `scheduler`, `agent`, `worker`, or None.
    """
    if of in _DAEMONS:
        return [directory / f"{of}.log"]
    daemons = [directory / f"{name}.log" for name in _DAEMONS]
    workers = sorted(path for path in directory.rglob("*.log") if path not in daemons)
    return workers if of == "worker" else daemons + workers


class LogFollower:
    """Reads what is new in log files that come, grow, rotate and go.

    Args:
        find: Returns the files as they are now.
        lines: How many of the lines that are there at the beginning are wanted, of each file.
    """

    def __init__(self, find: Callable[[], list[Path]], lines: int) -> None:
        self._find = find
        self._lines: int | None = lines
        self._open: dict[Path, _OneFile] = {}

    def read(self) -> Iterator[str]:
        """Yield the lines that are new since the last call, each with the name of its file if there are several."""
        files = self._find()
        for path in files:
            if path not in self._open:
                self._open[path] = _OneFile(path)
        several = len(self._open) > 1
        width = max((len(path.stem) for path in self._open), default=0)
        for path in list(self._open):
            prefix = f"{path.stem:<{width}} | " if several else ""
            new = self._open[path].read()
            if self._lines is not None:
                new = new[len(new) - min(self._lines, len(new)) :]
            yield from (prefix + line for line in new)
            if path not in files:
                self._open.pop(path).close()
        self._lines = None

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


class _OneFile:
    """One name, whatever file has it. A file that was rotated away is read to its end first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> list[str]:
        """Return the whole lines that are new."""
        data = self._read_open()
        try:
            status = self._path.stat()
            if self._file is None or os.fstat(self._file.fileno()).st_ino != status.st_ino:
                first = self._file is None
                self.close()
                self._file = self._path.open("rb")
                self._file.seek(max(0, status.st_size - _TAIL_BYTES) if first else 0)
                data += self._read_open()
        except FileNotFoundError:
            pass  # rotated away or removed; a new one may come
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [printable(line.decode("utf-8", "replace").replace("\t", "    "), _LINE_CHARACTERS) for line in whole]

    def _read_open(self) -> bytes:
        if self._file is None:
            return b""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
