"""What the tests of starting and stopping share: a runtime directory of their own, and real processes to start."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from atoll.client import daemons
from atoll.protocol.cluster_file import ClusterFile


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory short enough for sockets. Whatever process still names it at the end is a leak."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("ATOLL_NUM_CPUS", "2")
    monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "64M")
    yield directory
    leaked = processes_naming(directory)
    for process in leaked:
        process.kill()
    psutil.wait_procs(leaked, timeout=5)
    daemons.reap()
    shutil.rmtree(directory, ignore_errors=True)
    assert not leaked, f"left behind: {leaked}"


def processes_naming(directory: Path) -> list[psutil.Process]:
    """Return the processes of which an argument is a path in this directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        named = any(str(directory) in argument for argument in process.info["cmdline"] or ())
        if named and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture
def small_daemons(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put small daemons in the place of the real ones; returns the runtime directory."""
    for kind in (daemons.SCHEDULER, daemons.AGENT):
        name = f"small_{kind}"
        (tmp_path / f"{name}.py").write_text(f"import small_daemon\n\nsmall_daemon.main({kind!r})\n")
        monkeypatch.setitem(daemons.MODULES, kind, name)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent}")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return runtime


def cluster_file(directory: Path, **changes: object) -> ClusterFile:
    """Return a connection file's content; nothing listens there."""
    values: dict[str, object] = {
        "cluster_id": "0123abcd",
        "key": "ab" * 32,
        "host": "here",
        "version": "0",
        "directory": str(directory),
        "scheduler_socket": str(directory / "scheduler.sock"),
        "agent_socket": str(directory / "agent.sock"),
        "linger_s": None,
        "started_by": "a test",
        "scheduler_pid": 0,
        "agent_pid": 0,
    }
    return ClusterFile(**{**values, **changes})  # type: ignore[arg-type]
