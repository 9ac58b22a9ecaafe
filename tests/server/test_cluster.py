"""The cluster's life as the server sees it, with a keeper that does what each test says."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from atoll.exceptions import AuthenticationError, ClusterLostError, ClusterStartError
from atoll.kernel_ext.server.cluster import ServerCluster
from atoll.protocol.cluster_file import ClusterFile, default_path, read_cluster_file
from atoll.protocol.messages import GetState, RegisterJob, State
from tests.patience import PATIENCE_S
from tests.server.hand_scheduler import HandScheduler


class Keeper:
    """Starts, checks and stops as the test's functions say, in whatever thread it is called."""

    def __init__(self, start: Callable[[], ClusterFile], check: Callable[[], list[str]] = list) -> None:
        self._start = start
        self._check = check
        self.cluster: ClusterFile | None = None
        self.started_here = False
        self.stopped = 0
        self.threads: set[str] = set()

    def start(self) -> ClusterFile:
        self.threads.add(threading.current_thread().name)
        self.cluster, self.started_here = self._start(), True
        return self.cluster

    def check(self) -> list[str]:
        return self._check()

    def stop(self, timeout_s: float = 10.0) -> None:
        self.stopped += 1
        self.cluster, self.started_here = None, False


def fail(error: Exception) -> ClusterFile:
    raise error


@pytest.fixture
def jp_asyncio_loop() -> None:
    """These tests run loops of their own."""


@pytest.fixture
def jp_server_cleanup() -> None:
    """There is no server here."""


@asynccontextmanager
async def running(
    keeper: Keeper, *, starts: bool = True, find: Callable[[], ClusterFile | None] = lambda: None
) -> AsyncIterator[ServerCluster]:
    cluster = ServerCluster(lambda: keeper, starts=starts, log=logging.getLogger("test"), find=find)
    cluster.begin()
    try:
        yield cluster
    finally:
        await cluster.end()


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick_checks(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.kernel_ext.server.cluster.CHECK_INTERVAL_S", 0.02)


def test_beginning_returns_at_once_and_starting_blocks_only_a_thread() -> None:
    release = threading.Event()

    async def scenario() -> None:
        scheduler = HandScheduler(default_path().parent)

        def start() -> ClusterFile:
            release.wait(PATIENCE_S)
            return read_cluster_file(default_path())

        keeper = Keeper(start)
        async with running(keeper) as cluster:
            await until(lambda: cluster.health().phase == "starting")
            release.set()
            await until(lambda: cluster.health().connected)
            assert cluster.health().phase == "running"
            assert cluster.health().started_here
            assert isinstance(await cluster.ask(GetState), State)
            assert [type(message) for message in scheduler.messages] == [RegisterJob, GetState]
            assert threading.current_thread().name not in keeper.threads
        assert keeper.stopped == 1, "what was started here is stopped here"
        scheduler.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error", [ClusterStartError("no room on the disk"), OSError(28, "No space left"), RuntimeError("odd")]
)
def test_a_failed_start_is_one_line_in_the_log_and_in_health(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        looked = 0

        def find() -> None:
            nonlocal looked
            looked += 1

        async with running(Keeper(lambda: fail(error)), find=find) as cluster:
            await until(lambda: looked >= 3)
            assert cluster.health().phase == "failed"
            assert str(error) in cluster.health().text
            with pytest.raises(ClusterLostError):
                await cluster.ask(GetState)

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_same_trouble_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        looked = 0

        def find() -> ClusterFile:
            nonlocal looked
            looked += 1
            return fail(AuthenticationError("the key does not match"))

        async with running(Keeper(lambda: fail(ClusterStartError("unused"))), starts=False, find=find):
            await until(lambda: looked >= 4)

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert len(caplog.records) == 1


def test_a_cluster_that_appears_is_attached_to_and_one_that_ends_is_let_go() -> None:
    async def scenario() -> None:
        found: list[ClusterFile] = []
        keeper = Keeper(lambda: fail(ClusterStartError("not to be called")))
        async with running(keeper, starts=False, find=lambda: found[0] if found else None) as cluster:
            assert cluster.health().phase == "off"
            scheduler = HandScheduler(default_path().parent)
            found.append(read_cluster_file(default_path()))
            await until(lambda: cluster.health().connected)
            assert cluster.health().started_here is False
            found.clear()
            scheduler.close()
            await until(lambda: cluster.health().phase == "stopped")
        assert keeper.stopped == 0, "what was found belongs to somebody else"

    asyncio.run(scenario())


def test_after_a_restart_of_the_scheduler_watchers_go_on() -> None:
    class Page:
        def __init__(self) -> None:
            self.states = 0
            self.troubles: list[str] = []

        def take_state(self, state: bytes) -> None:
            self.states += 1

        def take_trouble(self, text: str) -> None:
            self.troubles.append(text)

    async def scenario() -> None:
        first = HandScheduler(default_path().parent)
        died: list[list[str]] = []
        keeper = Keeper(lambda: read_cluster_file(default_path()), lambda: died.pop() if died else [])
        async with running(keeper) as cluster:
            await until(lambda: cluster.health().connected)
            page = Page()
            cluster.watch(page)
            await until(lambda: bool(first.watched_every))
            first.close()
            await until(lambda: bool(page.troubles))
            second = HandScheduler(default_path().parent)
            died.append(["scheduler"])
            await until(lambda: bool(second.watched_every))
            second.push(second.state)
            await until(lambda: page.states == 1)
            cluster.unwatch(page)
            cluster.unwatch(page)
            await until(lambda: not second.watched_every)
        second.close()

    asyncio.run(scenario())


def test_a_restart_on_request_stops_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(
        "atoll.kernel_ext.server.cluster.stop_cluster", lambda cluster: stopped.append(cluster.cluster_id)
    )

    async def scenario() -> None:
        scheduler = HandScheduler(default_path().parent)
        keeper = Keeper(lambda: read_cluster_file(default_path()))
        async with running(keeper) as cluster:
            await until(lambda: cluster.health().connected)
            await cluster.restart()
            assert cluster.health().phase == "running"
            assert stopped == [scheduler.state.cluster_id]
        scheduler.close()

    asyncio.run(scenario())
