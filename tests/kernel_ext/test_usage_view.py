"""`%usage` and `atoll usage`: sums, tables, and what a line may say."""

from __future__ import annotations

import pytest

from atoll.accounting import memory_time, sum_up, usage, usage_lines
from atoll.kernel_ext import grammar
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.usage_view import usage_view
from atoll.protocol.usage import UsageReport, UsageRow

ROWS = [
    UsageRow("a.ipynb", "kernel", "fit", "", 1, {"CPU": 7200.0, "GPU": 3600.0}, {"CPU": 60.0}, {"GPU": 60.0}, {}),
    UsageRow("a.ipynb", "kernel", "", "llm", 1, {"CPU": 10.0}, {"memory": 2.0**31 * 3600}, {"CPU": 10.0}, {}),
    UsageRow("<b>.ipynb", "kernel", "score", "", 0, {"CPU": 30.0}, {}, {}, {}),
]
REPORT = UsageReport(1.7e9, 1.7e9 - 9000, 19_000, ROWS)


def flags(line: str) -> frozenset[str]:
    return grammar.parse(grammar.USAGE, line, lambda text: text).flags


def test_sums() -> None:
    whole = sum_up(ROWS, "notebook", today=False)
    assert [(one.name, one.leases, one.held["CPU"]) for one in whole] == [
        ("a.ipynb", 2, 7210.0),
        ("<b>.ipynb", 0, 30.0),
    ]
    assert [one.name for one in sum_up(ROWS, "cell", today=True)] == ["fit", "llm"]
    assert [one.name for one in sum_up(ROWS, "actor", today=False)] == ["llm"]


def test_without_a_word_this_notebook_today_and_all_notebooks() -> None:
    text = usage_view(REPORT, flags(""), "a.ipynb").text()
    first, second = text.split("All notebooks")
    assert "fit" in first
    assert "actor llm" in first
    assert "2 h" not in first, "that was before today"
    assert "score" not in first
    assert "<b>.ipynb" in second
    assert "2 h 0 min" in second
    assert "2 GiB·h" in second


def test_one_table() -> None:
    html = usage_view(REPORT, flags("cell"), "a.ipynb").html()
    assert "&lt;b&gt;.ipynb" in html
    assert "<b>.ipynb" not in html
    assert "score" in html
    assert "nothing was held" in usage_view(UsageReport(0, 0, 0, []), flags("actor today"), "").text()


def test_two_kinds_at_once_are_one_too_many() -> None:
    with pytest.raises(MagicUsageError, match="one of them"):
        usage_view(REPORT, flags("cell actor"), "")


def test_lines_for_a_terminal() -> None:
    lines = usage_lines(ROWS, "notebook", today=False)
    assert lines[0].split() == [
        "NOTEBOOK",
        "NOW",
        "CPU",
        "HELD",
        "CPU",
        "USED",
        "GPU",
        "HELD",
        "GPU",
        "USED",
        "MEMORY",
        "USED",
    ]
    assert len(lines) == 3
    assert memory_time(0) == "-"
    assert memory_time(2.0**20 * 5) == "5 MiB·s"


def test_a_wrong_word_says_what_is_right() -> None:
    with pytest.raises(ValueError, match="'notebook', 'cell', 'actor'"):
        usage("gpu")
