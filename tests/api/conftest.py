"""One cluster for the tests of a module, with two simulated GPUs; a session of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll
from atoll.client import launch
from atoll.client.session import Session
from tests.conftest import _children, _descriptors, _settle, _threads
from tests.lifecycle.conftest import processes_naming


@pytest.fixture(autouse=True)
def r24_nothing_left() -> None:
    """The cluster lives for a module here, and so does the check that nothing is left: see `cluster`."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A running cluster; after the module no process, thread, descriptor or file of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    looks = {"processes": _children, "threads": _threads, "descriptors": _descriptors}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_RUNTIME_DIR", str(directory))
        patch.setenv("ATOLL_NUM_CPUS", "2")
        patch.setenv("ATOLL_STORE_CAPACITY_BYTES", "256M")
        patch.setenv("ATOLL_STORE_PATIENCE_S", "0.5")
        patch.setenv("ATOLL_SIMULATED_GPUS", "2")
        patch.setenv("ATOLL_RESOURCES", "licence=2")
        patch.setenv("ATOLL_LABELS", "zone=a,disk=ssd")
        before = {name: look() for name, look in looks.items()}
        running = launch.start_cluster(linger_s=None, started_by="tests")
        yield directory
        atoll.shutdown()
        launch.stop_cluster(running)
        left = {name: found for name, look in looks.items() if (found := _settle(look, before[name]))}
        left_processes = processes_naming(directory)
        files = [str(path) for path in directory.rglob("*") if path.suffix != ".lock"]
        shutil.rmtree(directory)
    assert not left
    assert not left_processes
    assert not files


@pytest.fixture
def session(cluster: Path) -> Iterator[Session]:
    """A session of its own for the test."""
    assert cluster
    yield atoll.init()
    atoll.shutdown()
