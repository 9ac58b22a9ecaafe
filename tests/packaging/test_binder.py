"""What can be known of Binder's image without building it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

BINDER = Path(__file__).resolve().parents[2] / "binder"


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_are_executable_and_stop_at_the_first_error(name: str) -> None:
    script = BINDER / name
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)


def test_start_simulates_gpus_and_becomes_the_server() -> None:
    program = "echo $$ $ATOLL_SIMULATED_GPUS"
    with subprocess.Popen([BINDER / "start", "bash", "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"{process.pid} 2\n"
    assert process.returncode == 0
