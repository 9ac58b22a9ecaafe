"""Every workload runs on Atoll, at a size that measures nothing, through the command that `make bench` calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import limits, results, workloads
from benchmarks.results import Results
from benchmarks.workload import LIMITS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str]:
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    command = [sys.executable, "-m", "benchmarks.run", "--tiny", "--systems", "atoll", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return results.load(path), done.stdout


@pytest.mark.parametrize("name", workloads.NAMES)
def test_a_workload_runs(ran: tuple[Results, str], name: str) -> None:
    found, _shown = ran
    workload = workloads.ALL[name]
    for metric in workload.metrics:
        cell = found.rows[metric.key].cells["Atoll"]
        if not cell.absent.startswith("does not spill"):
            assert not cell.absent
            assert cell.median is not None
        if workload.limits is not None:
            assert any(found.rows[metric.key].median(limit) for limit in found.limits)


def test_it_leaves_nothing(ran: tuple[Results, str]) -> None:
    found, shown = ran
    assert found.remarks == {}
    assert "budgets" in shown


def test_a_system_that_takes_too_long_is_ended_and_said_so() -> None:
    """In a process of its own: the conductor ends everything that descends from it."""
    script = """
import json
from benchmarks.conductor import Conductor
with Conductor(lambda line: None) as conductor:
    turns = [("durations", 0.3), ("task_sync", 30)]
    options = {"store_bytes": 2**28, "started": True, "tiny": True}
    answers = []
    for name, cap_s in turns:
        scale = 1.0 if name == "durations" else 0.1
        answers.append(conductor.turn("process_pool", name, scale, cap_s=cap_s, **options))
print(json.dumps([answers, conductor.remarks]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    (slow, next_one), remarks = json.loads(done.stdout)
    assert slow == {"error": "over its time: more than 0.3 s, ended"}
    assert next_one["samples"]["task_sync"]
    assert remarks == {}


def test_the_limits_are_measured() -> None:
    assert LIMITS not in workloads.NAMES
    with limits.echo_process() as connection:
        assert len(limits.round_trip_s(connection, 20)) == 20
        assert limits.batched_calls_per_s(connection, 2000) > 1000
    assert min(limits.memcpy_bytes_per_s(10**6, 3, 2)) > 10**6
