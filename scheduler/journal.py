"""What must outlive the scheduler's process: a small SQLite file in the session directory.

A record is written before the reply that it guards is sent, so what was acknowledged is found again after `kill -9`.
The journal is for the death of the process, not of the host: the whole cluster, and this file with it, goes with the
host. So nothing waits for the disk (`synchronous=OFF`), and a write costs some tens of microseconds.

A damaged journal is set aside, never fatal: the cluster goes on without what only the journal knew, and its log says
where the damaged file is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from atoll.protocol.runtime_directory import open_private

FORMAT = 1
_COMPANIONS = ("", "-wal", "-shm", "-journal")
_logger = logging.getLogger("atoll.scheduler.journal")


class DamagedJournalError(Exception):
    """The file is no journal that this version can read. Never leaves this module."""


class Journal:
    """Records by table and key.

    Args:
        path: The file; made 0600 if it is not there. Its directory must be ours alone.

    Attributes:
        damage: What was wrong with the journal that was set aside, or None.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage: str | None = None
        try:
            self._database = _open(path)
        except (sqlite3.DatabaseError, DamagedJournalError) as error:
            aside = _set_aside(path)
            self.damage = f"the journal {path.name} is damaged ({error}); it is now {aside.name}, and a new one begins"
            _logger.error("%s", self.damage)
            self._database = _open(path)

    def read(self) -> list[tuple[str, str, bytes]]:
        """Return all records, oldest first."""
        rows = self._database.execute("SELECT kind, key, value FROM records ORDER BY rowid")
        return [(str(kind), str(key), bytes(value)) for kind, key, value in rows]

    def write(self, table: str, key: str, value: bytes) -> None:
        """Write a record, in place of one of the same key."""
        self._change(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
            (table, key, value),
        )

    def remove(self, table: str, key: str) -> None:
        """Remove a record, if it is there."""
        self._change("DELETE FROM records WHERE kind = ? AND key = ?", (table, key))

    def _change(self, statement: str, values: tuple[str | bytes, ...]) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:
            # The cluster works on without its journal (a full disk is no reason to end everybody's work), but says so.
            _logger.critical("not written down, and lost if the scheduler dies: %s of %s: %s", *values[:2], error)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    """Return the database, checked and ready. SQLite gives the files beside it the mode of this one."""
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        state = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if state != "ok":
            raise DamagedJournalError(state)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.execute(
                "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (kind, key))"
            )
            database.execute(f"PRAGMA user_version = {FORMAT}")
        elif version != FORMAT:
            raise DamagedJournalError(f"its format is {version}, and {FORMAT} is read")
        database.execute("SELECT kind, key, value FROM records LIMIT 1").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> Path:
    """Rename a damaged journal and what belongs to it; return its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for companion in _COMPANIONS:
        part = path.with_name(path.name + companion)
        if part.exists():
            part.rename(aside.with_name(aside.name + companion))
    return aside
