"""A Jupyter server with our extension, inside the test's own loop, and a scheduler written out by hand beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.serverapp import ServerApp
from pytest_jupyter.jupyter_core import *  # noqa: F403 # fixtures; pytest takes no plugins from an inner conftest
from pytest_jupyter.jupyter_server import *  # noqa: F403
from pytest_jupyter.pytest_tornasync import *  # noqa: F403

from atoll.kernel_ext.server.cluster import ServerCluster
from atoll.kernel_ext.server_app import AtollExtension
from tests.patience import PATIENCE_S
from tests.server.hand_scheduler import HandScheduler


@pytest.fixture
def runtime_directory(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the connection file is looked for: a place of this test's own."""
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(socket_directory))
    return socket_directory


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    """The extension on; no cluster started: tests that want one say so."""
    return {
        "ServerApp": {"jpserver_extensions": {"atoll": True}},
        "AtollExtension": {"start_cluster": False},
    }


@pytest.fixture
def extension(runtime_directory: Path, jp_serverapp: ServerApp) -> AtollExtension:
    """The extension as the server loaded it."""
    return jp_serverapp.extension_manager.extension_points["atoll"].app


@pytest.fixture
def cluster(extension: AtollExtension) -> ServerCluster:
    return extension.cluster


@pytest.fixture
def scheduler(
    cluster: ServerCluster, runtime_directory: Path, jp_asyncio_loop: asyncio.AbstractEventLoop
) -> Iterator[HandScheduler]:
    """A scheduler that the extension has found and is connected to."""

    async def begin() -> HandScheduler:
        scheduler = HandScheduler(runtime_directory)
        cluster.begin()
        async with asyncio.timeout(PATIENCE_S):
            while not cluster.health().connected:
                await asyncio.sleep(0.02)
        return scheduler

    async def end(scheduler: HandScheduler) -> None:
        await cluster.end()
        scheduler.close()

    scheduler = jp_asyncio_loop.run_until_complete(begin())
    yield scheduler
    jp_asyncio_loop.run_until_complete(end(scheduler))
