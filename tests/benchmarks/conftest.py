"""A cluster with one worker for one test: what is measured or watched is sure to be that worker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll
from atoll.client import daemons, launch


@pytest.fixture
def cluster_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its runtime directory. A client finds it by the environment."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-test-", dir="/tmp"))
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("ATOLL_NUM_CPUS", "1")
    monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "512M")
    running = launch.start_cluster(linger_s=None, started_by="tests")
    yield directory
    atoll.shutdown()
    launch.stop_cluster(running)
    daemons.reap()
    shutil.rmtree(directory)
