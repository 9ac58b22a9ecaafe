"""A cluster of several nodes on this machine: one more agent each, with workers and an object store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import atoll
from atoll.client import daemons, launch
from atoll.config import settings
from atoll.protocol.cluster_file import default_path
from tests.api.conftest import cluster, r24_nothing_left, session

__all__ = ["cluster", "nodes", "r24_nothing_left", "session"]

StartNode = Callable[..., str]


@pytest.fixture
def nodes(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    """Starts nodes by name; those that are still there afterwards are ended."""
    running = launch.find_cluster()
    assert running is not None
    started = []

    def start(name: str, *, cpus: float = 2, labels: str = "") -> str:
        monkeypatch.setenv("ATOLL_NUM_CPUS", str(cpus))
        monkeypatch.setenv("ATOLL_LABELS", labels or f"zone={name}")
        monkeypatch.setenv("ATOLL_SIMULATED_GPUS", "0")
        monkeypatch.setenv("ATOLL_RESOURCES", "")
        started.append(daemons.start_node(running, default_path(), name, settings()))
        while (found := [node for node in atoll.nodes() if node["NodeName"] == name]) == []:
            pass
        return str(found[0]["NodeID"])

    yield start
    daemons.end_processes([process.pid for process in started])
