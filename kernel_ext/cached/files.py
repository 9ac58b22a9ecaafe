"""What files look like: compared by content where that is quick, and else by what the system cannot be told.

    absent                     there is nothing
    content SIZE SHA-256       a file of up to 64 MiB
    identity SIZE …            a larger one: size, times of writing and of change, device, number. The time of change
                               (ctime) cannot be set by a program, so a file that was written to looks different.
    names SHA-256              a directory whose list was read: the names in it
    pattern COUNT SHA-256      the files that a pattern such as `data/*.csv` finds
    tree SHA-256               a directory as a whole: names, sizes and times of what is below

A digest of content is kept as long as size and times are the same, but not for a file that was written to within the
last two seconds: in that time, another write might not show in its times.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import time
from pathlib import Path

from atoll.kernel_ext.cached.hashing import digest_memory

CONTENT_BYTES = 64 * 2**20
SETTLED_NS = 2_000_000_000
MAXIMUM_ENTRIES = 20_000
KEPT_DIGESTS = 4096

Identity = tuple[int, ...]

ABSENT = "absent"

_BYTECODE = "__pycache__"
"""Python writes these directories when it imports, and whatever else reads files means others."""


class TooManyFiles(Exception):
    """A directory has more below it than can be looked at each time."""


def identity_of(status: os.stat_result) -> Identity:
    """Return what is different after every change of a file."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)


class FileLooks:
    """What files look like, with the digests that this process has made."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Identity, str]] = {}

    def look(self, path: str) -> str:
        """Return what a path looks like: a file by its content, a directory as a whole.

        Raises:
            TooManyFiles: It is a directory with too much below it.
        """
        if glob.has_magic(path) and not os.path.exists(path):  # noqa: PTH110
            return self._pattern(path)
        try:
            status = os.stat(path)  # noqa: PTH116  # many at once: no Path is made for each
        except (OSError, ValueError):
            return ABSENT
        if stat.S_ISDIR(status.st_mode):
            return _tree(path)
        if not stat.S_ISREG(status.st_mode):
            return "special"
        if status.st_size > CONTENT_BYTES:
            return "identity " + " ".join(map(str, identity_of(status)))
        return f"content {status.st_size} {self.content(path, status)}"

    def _pattern(self, pattern: str) -> str:
        """Return what the files look like that a pattern finds, and which these are."""
        found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.basename(path) != _BYTECODE)  # noqa: PTH119, PTH207
        if len(found) > MAXIMUM_ENTRIES:
            raise TooManyFiles(pattern)
        looks = "\0".join(f"{path}\1{self.look(path)}" for path in found)
        digest = hashlib.sha256(looks.encode("utf-8", "surrogateescape")).hexdigest()
        return f"pattern {len(found)} {digest}" if found else ABSENT

    def names(self, path: str) -> str:
        """Return what the list of a directory looks like."""
        try:
            found = sorted(os.listdir(path))  # noqa: PTH208
        except OSError:
            return ABSENT
        return "names " + hashlib.sha256("\0".join(found).encode("utf-8", "surrogateescape")).hexdigest()

    def content(self, path: str, status: os.stat_result) -> str:
        """Return the digest of a file's content, which is read only if it may have changed."""
        return self.kept("content", path, status, _digest_file)

    def kept(self, kind: str, path: str, status: os.stat_result, make: object) -> str:
        """Return what a function makes of a file, called again only if the file may have changed."""
        assert callable(make)
        known = self._known.get((kind, path))
        identity = identity_of(status)
        if known is not None and known[0] == identity:
            return known[1]
        began = time.time_ns()
        made: str = make(path)
        if max(status.st_mtime_ns, status.st_ctime_ns) < began - SETTLED_NS:
            if len(self._known) >= KEPT_DIGESTS:
                self._known.clear()
            self._known[kind, path] = (identity, made)
        return made


def _digest_file(path: str) -> str:
    try:
        return digest_memory(Path(path).read_bytes()).hex()
    except OSError as error:
        return f"unreadable {error.errno}"


def _tree(path: str) -> str:
    hasher = hashlib.sha256()
    count = 0
    for directory, below, names in os.walk(path):
        below[:] = sorted(name for name in below if name != _BYTECODE)
        count += len(names) + len(below)
        if count > MAXIMUM_ENTRIES:
            raise TooManyFiles(path)
        hasher.update(os.path.relpath(directory, path).encode("utf-8", "surrogateescape") + b"\0")
        for name in sorted(names):
            try:
                status = os.stat(os.path.join(directory, name))  # noqa: PTH116, PTH118
            except OSError:
                continue
            line = f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0"
            hasher.update(line.encode("utf-8", "surrogateescape"))
    return f"tree {hasher.hexdigest()}"
