"""A cluster with one worker: what is measured or watched is sure to be that worker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atoll.client import daemons, launch


@contextmanager
def _cluster() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="atoll-test-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_RUNTIME_DIR", str(directory))
        patch.setenv("ATOLL_NUM_CPUS", "1")
        patch.setenv("ATOLL_STORE_CAPACITY_BYTES", "512M")
        running = launch.start_cluster(linger_s=None, started_by="tests")
        yield directory
        launch.stop_cluster(running)
        daemons.reap()
    shutil.rmtree(directory)


@pytest.fixture
def cluster_of_one() -> Iterator[Path]:
    """Its runtime directory. Clients find it by the environment; it is this test's alone and may be ended by it."""
    with _cluster() as directory:
        yield directory


@pytest.fixture(scope="module")
def shared_cluster_of_one() -> Iterator[Path]:
    """The same for a module. A test that begins a session ends it."""
    with _cluster() as directory:
        yield directory
