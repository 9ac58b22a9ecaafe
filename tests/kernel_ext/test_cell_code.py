"""When a cell is the same as one that ran before."""

from __future__ import annotations

from atoll.kernel_ext.cell_code import code_of


def test_code_counts_and_not_how_it_is_written() -> None:
    one = code_of("x = [1,2]\nfit(x)", "%%remote")
    assert one == code_of("# a comment\nx = [1, 2]\n\nfit( x )", "%%remote")
    assert one != code_of("x = [1, 3]\nfit(x)", "%%remote")


def test_a_name_stands_for_whatever_code() -> None:
    assert code_of("x = 1", "fit") == code_of("x = 2", "fit") != code_of("x = 1", "evaluate")
    assert code_of("x = 1", "fit") != code_of("x = 1", "%%remote")


def test_what_is_no_python_yet_is_compared_line_by_line() -> None:
    assert code_of("!ls\n  %time f()", "%%remote") == code_of("!ls\n\n%time f()\n", "%%remote")
