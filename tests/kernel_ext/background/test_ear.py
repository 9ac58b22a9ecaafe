"""Speaking to a cell that runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from atoll.kernel_ext.background.ear import CANCEL, Ear, say


def test_a_word_is_heard_at_once_and_nobody_listens_before_or_after(tmp_path: Path) -> None:
    assert not say(str(tmp_path), "t1", CANCEL)
    heard: list[str] = []
    came = threading.Event()

    def take(word: str) -> None:
        heard.append(word)
        came.set()

    ear = Ear(str(tmp_path), "t1", take, lambda: None)
    assert (tmp_path / "ears" / "t1").stat().st_mode & 0o777 == 0o600
    assert say(str(tmp_path), "t1", CANCEL)
    assert came.wait(5)
    assert heard == [CANCEL]
    ear.close()
    assert not say(str(tmp_path), "t1", CANCEL)
    assert list((tmp_path / "ears").iterdir()) == []


def test_the_pipe_of_a_process_that_died_has_no_listener(tmp_path: Path) -> None:
    (tmp_path / "ears").mkdir()
    os.mkfifo(tmp_path / "ears" / "t1")
    assert not say(str(tmp_path), "t1", CANCEL)


def test_it_looks_around_now_and_then(tmp_path: Path) -> None:
    looked = threading.Event()
    ear = Ear(str(tmp_path), "t1", lambda _word: None, looked.set)
    assert looked.wait(5)
    ear.close()
