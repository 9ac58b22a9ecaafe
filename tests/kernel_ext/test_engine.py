from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from atoll.kernel_ext.engine.cluster import AtollEngine

try:
    AtollEngine().job()
except Exception as error:
    print(type(error).__name__, error._render_traceback_())
"""

pytestmark = pytest.mark.processes


def test_a_setting_that_cannot_be_read_is_one_line_in_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "lots")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kind, _space, lines = done.stdout.partition(" ")
    assert kind == "ValueError"
    (line,) = eval(lines)
    assert line.startswith("ValueError: ")
    assert "ATOLL_STORE_CAPACITY_BYTES" in line
    assert "lots" in line
