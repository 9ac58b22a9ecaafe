"""What tasks print: prefixes, progress bars in a terminal, in a notebook and in a file."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from atoll.client.task_output import OutputLines, TaskPrinter


def test_lines_say_where_they_come_from() -> None:
    lines = OutputLines()
    assert lines.feed("fit pid=1", "one\ntwo\n") == ["(fit pid=1) one", "(fit pid=1) two"]
    assert lines.feed("fit pid=2", "flushed without an end") == ["(fit pid=2) flushed without an end"]
    assert lines.feed("", "of nobody\n") == ["of nobody"]


def test_a_bar_is_one_line_until_it_is_finished() -> None:
    lines = OutputLines()
    assert lines.feed("a pid=1", "\r  0%|     |") == []
    assert lines.feed("b pid=2", "\r 10%|     |") == []
    assert lines.feed("a pid=1", "\r 50%|##   |") == []
    assert list(lines.bars.values()) == ["(a pid=1)  50%|##   |", "(b pid=2)  10%|     |"]
    assert lines.feed("a pid=1", "\r100%|#####|\n") == ["(a pid=1) 100%|#####|"]
    assert lines.feed("b pid=2", "\n") == ["(b pid=2)  10%|     |"]
    assert lines.bars == {}


def test_a_bar_that_clears_itself_leaves_nothing() -> None:
    lines = OutputLines()
    lines.feed("a pid=1", "\r 50%|##   |")
    assert lines.feed("a pid=1", "\r           \r") == []
    assert lines.bars == {}


def test_a_bar_below_another_has_its_own_line() -> None:
    lines = OutputLines()
    lines.feed("a pid=1", "\r 10%|outer|")
    assert lines.feed("a pid=1", "\n\r 70%|inner|\x1b[A") == []
    assert list(lines.bars.values()) == ["(a pid=1)  10%|outer|", "(a pid=1)  70%|inner|"]


def test_colours_of_lines_are_kept() -> None:
    assert OutputLines().feed("", "\x1b[31mred\x1b[0m\n") == ["\x1b[31mred\x1b[0m"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_bars_stay_below_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    printer = TaskPrinter(notebook=False)
    printer.of("a pid=1")("stderr", b"\r 10%")
    printer.of("b pid=2")("stderr", b"\r 20%")
    printer.of("b pid=2")("stdout", b"a line\n")
    assert screen(terminal.getvalue()) == ["(b pid=2) a line", "(a pid=1)  10%", "(b pid=2)  20%"]
    printer.of("a pid=1")("stderr", b"\r100%\n")
    assert screen(terminal.getvalue()) == ["(b pid=2) a line", "(a pid=1) 100%", "(b pid=2)  20%"]


def screen(written: str) -> list[str]:
    """Return what a terminal shows: enough of one for what is written here."""
    rows, row, column = [""], 0, 0
    position = 0
    while position < len(written):
        if written.startswith("\x1b[A", position):
            row, position = row - 1, position + 3
        elif written.startswith("\x1b[K", position):
            rows[row], position = rows[row][:column], position + 3
        else:
            character, position = written[position], position + 1
            if character == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif character == "\r":
                column = 0
            else:
                rows[row] = rows[row][:column] + character + rows[row][column + 1 :]
                column += 1
    return [line for line in rows if line]


def test_in_a_file_a_bar_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    printer = TaskPrinter(notebook=False)
    for percent in (b"\r 10%", b"\r 50%", b"\r100%", b"\n"):
        printer.of("a pid=1")("stderr", percent)
    printer("stdout", b"of nobody\n")
    printer("display", b"something else")
    shown = capsys.readouterr()
    assert (shown.err, shown.out) == ("(a pid=1) 100%\n", "of nobody\n")


def test_in_a_notebook_all_bars_are_one_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, Any], *, raw: bool) -> None:
            assert raw
            shown.append("update: " + data["text/plain"])

    def display(data: dict[str, Any], **_options: Any) -> Handle:
        shown.append("new: " + data["text/plain"])
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    printer = TaskPrinter(notebook=True)
    printer.of("a pid=1")("stderr", b"\r 10%")
    printer.of("b pid=2")("stderr", b"\r 20%")
    printer.of("a pid=1")("stderr", b"\r100%\n")
    printer.of("b pid=2")("stderr", b"\n")
    assert shown == [
        "new: (a pid=1)  10%",
        "update: (a pid=1)  10%\n(b pid=2)  20%",
        "update: (b pid=2)  20%",
        "update: ",
    ]
