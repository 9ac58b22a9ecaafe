"""The extension in a real Jupyter server, with real daemons: they begin, are restarted and end with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import PATIENCE_S, Lab, processes_of, running_lab, wait_until_gone
from tests.patience import eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def jp_asyncio_loop() -> None:
    """The server is a process of its own."""


@pytest.fixture
def jp_server_cleanup() -> None:
    """As above."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running_lab(start_cluster=True, linger_s=1.0, module="jupyter_server") as lab:
        yield lab


def health_when(lab: Lab, condition: Callable[[dict[str, Any]], bool], timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        health: dict[str, Any] = lab.ask("atoll/api/health")
        if condition(health):
            return health
        assert time.monotonic() < deadline, f"{health}\n{lab.log.read_text()[-3000:]}"
        time.sleep(0.02)


def is_up(health: dict[str, Any]) -> bool:
    return health["phase"] == "running" and health["connected"]


def home_of(lab: Lab) -> Path:
    return lab.directory.parent


def test_it_begins_and_ends_with_the_server(lab: Lab) -> None:
    health = health_when(lab, is_up)
    assert health["started_here"] is True
    state = lab.ask("atoll/api/state")
    assert state["cluster_id"] == health["cluster_id"]
    assert [job["kind"] for job in state["jobs"]] == ["server"]
    os.kill(lab.process.pid, signal.SIGTERM)
    lab.process.wait(PATIENCE_S)
    assert wait_until_gone(home_of(lab)) == {}
    assert not list((home_of(lab) / "runtime").glob("atoll-*.json"))


@pytest.mark.parametrize("daemon", ["scheduler", "agent"])
def test_a_daemon_that_died_is_started_again(lab: Lab, daemon: str) -> None:
    before = health_when(lab, is_up)
    killed = before[f"{daemon}_pid"]
    os.kill(killed, signal.SIGKILL)
    health_when(lab, lambda health: is_up(health) and health[f"{daemon}_pid"] != killed)
    eventually(lambda: lab.ask("atoll/api/state")["nodes"], "the node is there again")
    assert f"restarted the {daemon}" in lab.log.read_text()


def test_r7_a_server_that_was_killed_leaves_nothing(lab: Lab) -> None:
    health_when(lab, is_up)
    os.kill(lab.process.pid, signal.SIGKILL)
    lab.process.wait(PATIENCE_S)
    assert wait_until_gone(home_of(lab)) == {}


def test_a_restart_gives_a_fresh_cluster(lab: Lab) -> None:
    before = health_when(lab, is_up)
    after = lab.ask("atoll/api/cluster/restart", "POST")
    assert after["phase"] == "running"
    assert after["cluster_id"] != before["cluster_id"]
    assert before["scheduler_pid"] not in processes_of(home_of(lab))


def test_a_cluster_that_cannot_start_is_one_line_and_the_server_lives() -> None:
    wrong = {"ATOLL_SIMULATED_GPUS": "many"}
    with running_lab(start_cluster=True, module="jupyter_server", more=wrong) as lab:
        health = health_when(lab, lambda health: health["phase"] == "failed")
        assert "ATOLL_SIMULATED_GPUS" in health["text"]
        said = [line for line in lab.log.read_text().splitlines() if "Atoll" in line and "no cluster" in line]
        assert len(said) == 1
        assert lab.ask("api/status")["kernels"] == 0
