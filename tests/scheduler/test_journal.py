"""The journal: what was written is found again, whatever happened to the process or the file."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.scheduler.journal import Journal


def test_records_are_found_again_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    for number in range(5):
        journal.write("names", f"n{number}", b"%d" % number)
    journal.write("names", "n1", b"again")
    journal.write("actors", "n1", b"another table")
    journal.remove("names", "n3")
    journal.remove("names", "never there")
    journal.close()
    again = Journal(tmp_path / "j.sqlite")
    assert again.read() == [
        ("names", "n0", b"0"),
        ("names", "n1", b"again"),
        ("names", "n2", b"2"),
        ("names", "n4", b"4"),
        ("actors", "n1", b"another table"),
    ]
    assert again.damage is None
    again.close()


def test_s10_its_files_are_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(tmp_path / "j.sqlite")
        journal.write("names", "n", b"")
        files = list(tmp_path.iterdir())
        assert len(files) >= 2, "the write-ahead log too"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        journal.close()
    finally:
        os.umask(before)


def test_r5_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal, pathlib\n"
        "from atoll.scheduler.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for number in range(200): journal.write('names', str(number), b'x' * 1000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "j.sqlite")], check=False)
    assert done.returncode == -9
    journal = Journal(tmp_path / "j.sqlite")
    assert len(journal.read()) == 200
    assert journal.damage is None
    journal.close()


@pytest.mark.parametrize("damage", ["garbage", "torn", "flipped", "other format", "other table"])
def test_a_damaged_journal_is_set_aside_and_a_new_one_begins(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path)
    for number in range(300):
        journal.write("names", str(number), b"x" * 500)
    journal.close()
    data = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 500)
    elif damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[: middle - 4096] + b"\xff" * 8192 + data[middle + 4096 :])
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99" if damage == "other format" else "DROP TABLE records")
        database.close()
    journal = Journal(path)
    assert journal.damage is not None
    assert "j.sqlite.damaged-1" in journal.damage
    assert (tmp_path / "j.sqlite.damaged-1").exists()
    assert journal.read() == []
    journal.write("names", "n", b"new")
    assert journal.read() == [("names", "n", b"new")]
    journal.close()


def test_a_write_that_fails_is_said_and_not_fatal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    journal.close()
    journal.write("names", "n", b"")
    assert "not written down" in caplog.text


def test_a_write_waits_for_no_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    assert journal._database is not None
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (0,)
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()
