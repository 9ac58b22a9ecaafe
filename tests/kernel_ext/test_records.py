from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.kernel_ext import detached, records
from atoll.kernel_ext.outputs import NoSink
from atoll.kernel_ext.post_mortem import describe, frames_of, short_text
from atoll.kernel_ext.records import END, LOST, Ending, Recorder, RecordReader, directory_of, new_record, read_ending
from atoll.kernel_ext.throttle import DISPLAYS_AT_ONCE
from atoll.kernel_ext.worker_output import OutputPort


def test_numbers_are_taken_once_by_several_kernels(tmp_path: Path) -> None:
    taken = []
    for _ in range(3):
        records._last.clear()  # another kernel
        taken += [new_record(str(tmp_path)) for _ in range(2)]
    assert taken == ["t1", "t2", "t3", "t4", "t5", "t6"]
    assert (directory_of(str(tmp_path)) / "t1").stat().st_mode & 0o777 == 0o600


def test_a_number_that_another_kernel_took_meanwhile_is_passed_over(tmp_path: Path) -> None:
    assert new_record(str(tmp_path)) == "t1"
    (directory_of(str(tmp_path)) / "t2").touch()
    assert new_record(str(tmp_path)) == "t3"


def test_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT_CELLS", 5)
    names = [new_record(str(tmp_path)) for _ in range(records.LOOK_EVERY + 1)]
    left = sorted(int(entry.name[1:]) for entry in directory_of(str(tmp_path)).iterdir())
    assert len(left) == 6
    assert f"t{left[-1]}" == names[-1]


def test_a_background_cell_that_runs_keeps_its_file_however_many_come_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT_CELLS", 5)
    runs, ended = new_record(str(tmp_path)), new_record(str(tmp_path))
    for name in (runs, ended):
        records.write_head(str(tmp_path), name, records.Head(name, name, 0.0))
    records.write_ending(str(tmp_path), ended, Ending("done"))
    for _ in range(records.LOOK_EVERY):
        new_record(str(tmp_path))
    kept = {entry.name for entry in directory_of(str(tmp_path)).iterdir()}
    assert {runs, ended} <= kept, "cells that were waited for do not count against them"
    later = [new_record(str(tmp_path)) for _ in range(records.LOOK_EVERY)]
    for name in later[:10]:
        records.write_head(str(tmp_path), name, records.Head(name, name, 0.0))
    for _ in range(records.LOOK_EVERY):
        new_record(str(tmp_path))
    kept = {entry.name for entry in directory_of(str(tmp_path)).iterdir()}
    assert runs in kept
    assert ended not in kept


def test_pieces_are_numbered_and_read_as_they_come(tmp_path: Path) -> None:
    name = new_record(str(tmp_path))
    sent: list[tuple[str, bytes]] = []
    recorder = Recorder(directory_of(str(tmp_path)) / name, lambda kind, payload: sent.append((kind, payload)))
    reader = RecordReader(str(tmp_path), name)
    assert list(reader.pieces()) == []
    recorder.emit("stdout", b"a")
    assert list(reader.pieces()) == [(1, "stdout", b"a")]
    recorder.emit("stderr", b"b")
    recorder.end(Ending("failed", ["line"]))
    (second, last) = reader.pieces()
    assert second == (2, "stderr", b"b")
    assert last[:2] == (3, END)
    assert read_ending(last[2]) == Ending("failed", ["line"])
    assert sent == [("stdout", b"a"), ("stderr", b"b")]


def test_a_piece_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    name = new_record(str(tmp_path))
    path = directory_of(str(tmp_path)) / name
    recorder = Recorder(path, lambda _kind, _payload: None)
    recorder.emit("stdout", b"abc")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    reader = RecordReader(str(tmp_path), name)
    assert list(reader.pieces()) == []
    path.write_bytes(whole)
    assert list(reader.pieces()) == [(1, "stdout", b"abc")]
    recorder.end(Ending("done"))


def test_a_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAXIMUM_BYTES", 100)
    name = new_record(str(tmp_path))
    sent: list[bytes] = []
    recorder = Recorder(directory_of(str(tmp_path)) / name, lambda _kind, payload: sent.append(payload))
    for _ in range(5):
        recorder.emit("stdout", b"x" * 40)
    recorder.end(Ending("done"))
    kinds = [kind for _number, kind, _payload in RecordReader(str(tmp_path), name).pieces()]
    assert kinds == ["stdout", "stdout", LOST, END]
    assert len(sent) == 5, "all is sent, whatever is kept"


class _Text(NoSink):
    """Takes text, and what displays say."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def text(self, stream: str, text: str) -> None:
        self.taken.append(text)

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        self.taken.append(data["text/plain"])


def test_what_is_too_much_for_a_page_is_in_the_record_in_its_place(tmp_path: Path) -> None:
    name = new_record(str(tmp_path))
    recorder = Recorder(directory_of(str(tmp_path)) / name, lambda _kind, _payload: None)
    port = OutputPort(recorder.emit, recorder.keep, name)
    lines = [f"{number}\n" for number in range(30_000)]
    for line in lines:
        port.write("stdout", line)
    shows = [f"<{number}>" for number in range(DISPLAYS_AT_ONCE + 3)]
    for show in shows:
        port.send("display", {"data": {"text/plain": show}, "metadata": {}, "transient": {}, "update": False})
    port.close()
    recorder.end(Ending("done"))
    shown, whole = _Text(), _Text()
    detached.show(RecordReader(str(tmp_path), name), shown)
    ending = detached.show(RecordReader(str(tmp_path), name), whole, everything=True)
    assert "".join(whole.taken) == "".join(lines + shows)
    assert ending == Ending("done")
    text = "".join(shown.taken)
    assert text.startswith("".join(lines[:5000]))
    assert text.count("\n") < 15_000
    assert f"left out: too much at once; %logs {name} all shows all of it]\n" in text
    assert "29999\n" in text
    assert text.endswith(f"[3 displays left out: too much at once; %logs {name} all shows all of it]\n")


def test_what_is_not_shown_has_an_end_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAXIMUM_BYTES", 100)
    name = new_record(str(tmp_path))
    recorder = Recorder(directory_of(str(tmp_path)) / name, lambda _kind, _payload: None)
    for _ in range(5):
        recorder.keep("unshown stdout", b"x" * 40)
    recorder.emit("stdout", b"end")
    recorder.end(Ending("done"))
    kinds = [kind for _number, kind, _payload in RecordReader(str(tmp_path), name).pieces()]
    assert kinds == ["unshown stdout", "unshown stdout", f"unshown {LOST}", "stdout", END]


def test_a_cell_whose_file_is_gone_runs_all_the_same(tmp_path: Path) -> None:
    sent: list[bytes] = []
    recorder = Recorder(tmp_path / "none", lambda _kind, payload: sent.append(payload))
    recorder.emit("stdout", b"a")
    recorder.end(Ending("done"))
    assert sent == [b"a"]


def test_frames_have_their_variables() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise ValueError

    def inner(value: int) -> None:
        rows, bad, _hidden = list(range(1000)), Bad(), 1
        raise LookupError(value, len(rows), type(bad))

    with pytest.raises(LookupError) as caught:
        inner(7)
    frames = frames_of(caught.value, {__file__: 3}, {})
    assert frames[-1].function == "inner"
    assert frames[-1].place.startswith("Cell In[3], line ")
    assert frames[-1].names["value"] == "7"
    assert frames[-1].names["rows"] == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"
    assert "its repr raised ValueError" in frames[-1].names["bad"] or "Bad instance" in frames[-1].names["bad"]
    assert "_hidden" not in frames[-1].names
    text = describe("t1", Ending("failed", ["Traceback"], frames))
    assert text.startswith("Traceback\n")
    assert "    value = 7" in text


def test_short_text_is_short_and_one_line() -> None:
    assert len(short_text("x" * 10_000)) < 220
    assert short_text("a\nb") == "'a\\nb'"
