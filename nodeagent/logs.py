"""The workers' output: a file each for stdout and stderr, rotated by size, bounded in number.

A worker writes to its files itself, through descriptors that it keeps for life, so a file cannot be taken away under
it. It is copied and then cut (`worker-<id>.out.log.1`, the last piece only); since the descriptors append, the worker
goes on at the new end. What it writes between copy and cut is lost, which is microseconds at 10 MiB.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEPT_FILES = 200
"""Files of workers that have ended are removed, the oldest first, when there are more."""

_TAIL_BYTES = 4096


class WorkerLogs:
    """The log directory.

    Args:
        directory: `<session directory>/logs`; made 0700 if it is missing.
        maximum_bytes: A file is rotated when it is larger.
    """

    def __init__(self, directory: Path, maximum_bytes: int) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        directory.mkdir(mode=0o700, exist_ok=True)

    def worker_paths(self, worker_id: bytes) -> tuple[str, str]:
        """Return where a worker's stdout and stderr go."""
        stem = self._directory / f"worker-{worker_id.hex()}"
        return f"{stem}.out.log", f"{stem}.err.log"

    def zygote_path(self, digest: str) -> Path:
        """Return where a zygote's output goes."""
        return self._directory / f"zygote-{digest}.log"

    def rotate(self) -> None:
        """Cut the files that have grown too large."""
        for path in self._directory.glob("*.log"):
            if path.name.startswith(("worker-", "zygote-")) and path.stat().st_size > self._maximum_bytes:
                self._cut(path)

    def _cut(self, path: Path) -> None:
        kept = path.with_name(f"{path.name}.1")
        source = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(source, "r+b") as old:
            size = os.fstat(old.fileno()).st_size
            old.seek(max(0, size - self._maximum_bytes))
            target = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(target, "wb") as new:
                shutil.copyfileobj(old, new)
            os.ftruncate(old.fileno(), 0)

    def prune(self, living: set[str]) -> None:
        """Remove the oldest files of workers that have ended, and at once those that nothing was written to.

        Args:
            living: Ids of the workers that live, as hex.
        """
        ended = []
        for path in self._directory.glob("worker-*"):
            if path.name.removeprefix("worker-").split(".", 1)[0] in living:
                continue
            status = path.stat()
            if status.st_size == 0:
                path.unlink()
            else:
                ended.append((status.st_mtime, path))
        ended.sort()
        for _time, path in ended[: max(0, len(ended) - KEPT_FILES)]:
            path.unlink()


def last_line(path: str | Path, begin: int = 0) -> str:
    """Return the last line of a file that says anything, or nothing if there is none.

    Args:
        path: The file; it need not exist.
        begin: What stands before this offset is of an earlier time.
    """
    lines = tail(path, begin).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def tail(path: str | Path, begin: int = 0) -> str:
    """Return the end of a file."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(begin, size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
