"""CPython's own executor tests, run against `atoll.util.Executor`.

They are imported, not copied: see `cpython.py`. Those that look into private attributes of `ProcessPoolExecutor`, or
import the executor by its name from `concurrent.futures`, are left out, each with its reason; what the latter show is
shown for ours in `test_executor.py`. Sleeps are shortened, except in the tests that are about a timeout.
"""

from __future__ import annotations

import shutil
import tempfile
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.util import Executor
from tests.util import scaled_time
from tests.util.cpython import executor_tests

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("module_session")]

_DIRECTORY = Path(tempfile.mkdtemp(prefix="atoll-cpython-"))

cpython: Any = executor_tests(_DIRECTORY)
if cpython is None:
    pytest.skip("this Python comes without its own tests (libpython3.x-testsuite)", allow_module_level=True)

PRIVATE = {
    "test_killed_child": "asks for executor._processes",
    "test_saturation": "asks for executor._max_workers and _processes",
    "test_idle_process_reuse_one": "asks for executor._max_workers and _processes",
    "test_idle_process_reuse_multiple": "asks for executor._max_workers and _processes",
    "test_max_tasks_per_child": "asks for executor._processes",
    "test_max_tasks_per_child_defaults_to_spawn_context": "asks for executor._mp_context",
    "test_traceback": "asks for concurrent.futures.process._RemoteTraceback",
    "test_shutdown_deadlock_pickle": "asks for executor._executor_manager_thread",
    "test_interpreter_shutdown": "imports the executor by name from concurrent.futures",
    "test_submit_after_interpreter_shutdown": "imports the executor by name from concurrent.futures",
    "test_hang_gh83386": "imports the executor by name from concurrent.futures",
    "test_ressources_gced_in_workers": "needs workers that have inherited multiprocessing's authkey of this process",
    "test_hang_gh94440": "asks for executor._executor_manager_thread",
    "test_free_reference_yielded_future": "uses no executor",
    "test_correct_timeout_exception_msg": "uses no executor",
}
"""Not run, and why."""

ABOUT_TIMEOUTS = ("test_timeout", "test_map_timeout")
"""They sleep beyond a timeout of 5 s."""


@pytest.fixture(scope="module")
def module_session(cluster: Path) -> Iterator[None]:
    """One session for all: its workers have imported CPython's tests once."""
    assert cluster
    atoll.init()
    yield
    atoll.shutdown()
    shutil.rmtree(_DIRECTORY)


class _Ours(cpython.ExecutorMixin):  # type: ignore[misc]
    executor_type = Executor


class _OursWithContext(_Ours):
    ctx = "spawn"


def _class(mixin: type, ours: type, *, slow: bool = False, inherited: bool = True) -> type:
    """Return a test class of CPython's mixin with our executor, without what is left out."""
    body: dict[str, Any] = {}
    own = vars(mixin)
    for name in dir(mixin):
        if not name.startswith("test"):
            continue
        if name in PRIVATE or (name in ABOUT_TIMEOUTS) != slow or not (inherited or name in own):
            body[name] = None
    made = type(f"Test{mixin.__name__}", (mixin, ours, unittest.TestCase), body)
    return pytest.mark.slow(made) if slow else pytest.mark.usefixtures("short_sleeps")(made)  # type: ignore[no-any-return]


@pytest.fixture
def short_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the sleeps; and count references only: a collection of garbage, which CPython's comments say it does not
    need, takes long in a process that has imported as much as this one."""
    monkeypatch.setattr(cpython.support, "gc_collect", lambda: None)
    quick = types.SimpleNamespace(**{name: getattr(scaled_time, name) for name in scaled_time.__all__})
    monkeypatch.setattr(cpython, "time", quick)


TestExecutor = _class(cpython.ExecutorTest, _Ours)
TestProcessPool = _class(cpython.ProcessPoolExecutorTest, _OursWithContext, inherited=False)
TestWait = _class(cpython.WaitTests, _Ours)
TestAsCompleted = _class(cpython.AsCompletedTests, _Ours)
TestShutdown = _class(cpython.ExecutorShutdownTest, _Ours)
TestDeadlock = _class(cpython.ExecutorDeadlockTest, _OursWithContext)
TestInitializer = _class(cpython.InitializerMixin, _Ours)
TestFailingInitializer = _class(cpython.FailingInitializerMixin, _Ours)
TestWaitSlow = _class(cpython.WaitTests, _Ours, slow=True)
TestExecutorSlow = _class(cpython.ExecutorTest, _Ours, slow=True)
