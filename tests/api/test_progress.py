"""A progress bar in a task is seen where the task was submitted."""

from __future__ import annotations

import re

import pytest

import atoll

pytest.importorskip("tqdm")

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


def test_bars_of_several_tasks_at_once_are_finished_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @atoll.remote
    def work(name: str) -> str:
        from tqdm import tqdm

        for _ in tqdm(range(20), desc=name, mininterval=0):
            pass
        return name

    assert atoll.get([work.remote("first"), work.remote("second")]) == ["first", "second"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for name in ("first", "second"):
        (line,) = [line for line in lines if name in line]
        assert re.fullmatch(rf"\(work pid=\d+\) {name}: 100%\|.*\| 20/20 \[.*\]", line)
