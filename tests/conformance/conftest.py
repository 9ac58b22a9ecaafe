"""The one place of these tests that knows which engine they run on.

A test takes the fixture `engine`, a module: `atoll`, or `ray` where `CONFORMANCE_ENGINE=ray`. It uses
public names only, and what Ray does is what is right. `not_yet.txt` beside this file names the tests that Atoll
does not pass yet; one that is listed and passes fails the run, so that the list can only shrink.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NUM_CPUS = 4
NUM_GPUS = 2
STORE_BYTES = 256 * 2**20
NAMESPACE = "conformance"

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_YET = Path(__file__).parent / "not_yet.txt"
NOT_YET_TIMEOUT_S = 6

ENVIRONMENT = {
    "ray": {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    },
    "atoll": {
        "ATOLL_NUM_CPUS": str(NUM_CPUS),
        "ATOLL_SIMULATED_GPUS": str(NUM_GPUS),
        "ATOLL_STORE_CAPACITY_BYTES": str(STORE_BYTES),
    },
}


ENGINE = os.environ.get("CONFORMANCE_ENGINE") or "atoll"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect the listed tests to fail, and no other."""
    if ENGINE != "atoll":
        return
    ours = {_short(item): item for item in items if Path(__file__).parent in item.path.parents}
    listed = [line.partition("#")[::2] for line in NOT_YET.read_text(encoding="utf-8").splitlines()]
    whole_files = {item.path.name for item in ours.values()} if not any("::" in a for a in config.args) else set()
    for name, remark in ((name.strip(), remark.strip()) for name, remark in listed if name.strip()):
        if name in ours:
            runs = remark != "not run"  # it would take the session with it
            ours[name].add_marker(pytest.mark.xfail(strict=True, run=runs, reason="not yet, see not_yet.txt"))
            ours[name].add_marker(pytest.mark.timeout(NOT_YET_TIMEOUT_S))
        elif name.split("::")[0] in whole_files:
            raise pytest.UsageError(f"{NOT_YET.name} lists {name}, and there is no such test")


def _short(item: pytest.Item) -> str:
    return f"{item.path.name}::{item.name}"


@pytest.fixture(autouse=True)
def r24_nothing_left() -> None:
    """The cluster lives for all tests here, and so does the check that nothing is left: see `engine`."""


@pytest.fixture(scope="package")
def engine() -> Iterator[Any]:
    """The engine's module, with a session in a cluster of 4 CPUs and 2 GPUs, as far as it knows."""
    assert ENGINE in ENVIRONMENT, f"CONFORMANCE_ENGINE={ENGINE}: there are {', '.join(ENVIRONMENT)}"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in ENVIRONMENT[ENGINE].items():
            patch.setenv(variable, value)
        running = _ray(patch) if ENGINE == "ray" else _atoll(patch)
        with running:
            yield importlib.import_module(ENGINE)


@contextlib.contextmanager
def _ray(patch: pytest.MonkeyPatch) -> Iterator[None]:
    import ray

    context = ray.init(
        num_cpus=NUM_CPUS,
        num_gpus=NUM_GPUS,
        object_store_memory=STORE_BYTES,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=True,
    )
    patch.setenv("RAY_ADDRESS", context.address_info["gcs_address"])
    yield
    ray.shutdown()


@contextlib.contextmanager
def _atoll(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the cluster; afterwards no process, thread, descriptor or file of it is left (claim R24)."""
    import atoll
    from atoll.client import launch
    from tests.conftest import _children, _descriptors, _settle, _threads
    from tests.lifecycle.conftest import processes_naming

    directory = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    patch.setenv("ATOLL_RUNTIME_DIR", str(directory))
    looks = {"processes": _children, "threads": _threads, "descriptors": _descriptors}
    before = {name: look() for name, look in looks.items()}
    running = launch.start_cluster(linger_s=None, started_by="tests")
    atoll.init(namespace=NAMESPACE)
    yield
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
def part(engine: Any) -> Callable[[str], Any]:
    """Import a module of the engine: `part("util.queue")`."""
    return lambda name: importlib.import_module(f"{engine.__name__}.{name}")


@pytest.fixture
def unique() -> str:
    """A name that no other test uses."""
    return f"name-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def script(engine: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, on the same cluster, with the engine imported as `engine`."""

    def run(
        source: str, *arguments: str, timeout_s: float = 50, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"script_{uuid.uuid4().hex[:8]}.py"
        file.write_text(f"import {engine.__name__} as engine\n" + textwrap.dedent(source), encoding="utf-8")
        path = {"PYTHONPATH": str(ROOT)} if engine.__name__ == "atoll" else {}
        return subprocess.run(
            [sys.executable, str(file), *arguments],
            env=os.environ | path | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )

    return run


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until something holds, for so long at most: what is true a moment later on every engine."""

    def wait(holds: Callable[[], Any], within_s: float = 20.0) -> None:
        until = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < until, f"not within {within_s:g} s"
            time.sleep(0.02)

    return wait


@pytest.fixture
def until_there() -> Callable[[str], None]:
    """A function that tasks can use too: return when a file is there. Raises after half a minute."""

    def until_there(path: str) -> None:
        import pathlib
        import time

        until = time.monotonic() + 30
        while not pathlib.Path(path).exists():
            if time.monotonic() > until:
                raise TimeoutError(f"no {path}")
            time.sleep(0.01)

    return until_there
