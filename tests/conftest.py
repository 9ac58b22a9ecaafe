"""What every test has: nothing is left behind (claim R24), and hypothesis tries the same examples every time.

Where the clusters of whoever runs the tests would be, there is a directory of the tests' own. A cluster belongs in a
directory of its test, or of its module, which looks after it; one that begins here was begun by mistake.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A cluster is several Python processes: with their bytecode kept they start in a third of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

DEFAULT_RUNTIME = Path(tempfile.mkdtemp(prefix="atoll-tests-"))
atexit.register(shutil.rmtree, DEFAULT_RUNTIME, ignore_errors=True)
os.environ["JUPYTER_RUNTIME_DIR"] = str(DEFAULT_RUNTIME)
os.environ.pop("ATOLL_RUNTIME_DIR", None)

settings.register_profile(
    "atoll", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("atoll")

_LEAVE_WITHIN_S = 3.0
"""Threads and processes that were told to end may take so long."""


def _descriptors() -> dict[str, str]:
    """Return the open descriptors and what they are, devices left out: libraries open those once and keep them."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if not target.startswith("/dev/"):
            found[entry.name] = target
    return found


def _children() -> dict[str, str]:
    """Return the child processes, zombies too, with their command lines."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue
        for pid in pids:
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
            except OSError:
                found[pid] = "gone meanwhile"
    return found


def _threads() -> dict[str, str]:
    return {str(thread.ident): thread.name for thread in threading.enumerate()}


def _settle(look: Callable[[], dict[str, str]], before: dict[str, str]) -> dict[str, str]:
    """Return what is there and was not before, after giving it a bounded moment to go."""
    deadline = time.monotonic() + _LEAVE_WITHIN_S
    while True:
        left = {key: what for key, what in look().items() if before.get(key) != what}
        if not left or time.monotonic() > deadline:
            return left
        gc.collect()
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def r24_nothing_left() -> Iterator[None]:
    """Fail a test that leaves a child process, a thread or an open descriptor."""
    looks = {"processes": _children, "threads": _threads, "descriptors": _descriptors}
    before = {name: look() for name, look in looks.items()}
    yield
    left = {name: found for name, look in looks.items() if (found := _settle(look, before[name]))}
    assert not left, f"the test left behind: {left}"


@pytest.fixture(autouse=True)
def no_cluster_outside_a_directory_of_its_own() -> Iterator[None]:
    """Fail a test that starts a cluster where a user's would be, and end that cluster."""
    yield
    found = sorted(path.name for path in DEFAULT_RUNTIME.glob("atoll-*"))
    if found:
        subprocess.run([sys.executable, "-m", "atoll", "down"], env=os.environ, capture_output=True, timeout=30)
        for path in DEFAULT_RUNTIME.glob("atoll-*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    assert not found, f"the test began a cluster outside of a directory of its own: {', '.join(found)}"


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """A private directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="atoll-test-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
