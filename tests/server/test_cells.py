"""Background cells for pages: a record on disk, and what a page hears of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.httpclient import HTTPClientError

from atoll.kernel_ext.cell_course import ATTEMPT, Attempt
from atoll.kernel_ext.cell_messages import CLEAR, DISPLAY, encode_event
from atoll.kernel_ext.records import Ending, Head, append_piece, new_record, write_ending, write_head
from atoll.kernel_ext.server.cells import MAXIMUM_PAGES
from tests.server.hand_scheduler import HandScheduler

CELLS = ("atoll", "api", "cells", "watch")


@pytest.fixture
def record(scheduler: HandScheduler, runtime_directory: Path) -> str:
    """A background cell that has begun."""
    (runtime_directory / "cells").mkdir(exist_ok=True)
    record = new_record(str(runtime_directory))
    write_head(str(runtime_directory), record, Head("fit", "fit", 1000.0))
    append_piece(str(runtime_directory), record, ATTEMPT, msgspec.msgpack.encode(Attempt("reef", 7, 1000.0)))
    return record


class Page:
    """A page's side of the socket."""

    def __init__(self, socket: Any, cluster: str) -> None:
        self.socket = socket
        self.cluster = cluster
        self._heard: list[dict[str, Any]] = []

    async def say(self, **wish: Any) -> None:
        await self.socket.write_message(json.dumps({"cluster": self.cluster, **wish}))

    async def hear(self, key: str) -> Any:
        """Return the next thing of a kind that is told; what is told before is skipped."""
        async with asyncio.timeout(10):
            while True:
                while self._heard:
                    told = self._heard.pop(0)
                    if key in told:
                        assert told["cluster"] == self.cluster
                        return told[key]
                self._heard = json.loads(await self.socket.read_message())


@pytest.fixture
def page(
    scheduler: HandScheduler, jp_ws_fetch: Any, http_server: Any, jp_asyncio_loop: asyncio.AbstractEventLoop
) -> Iterator[Page]:
    async def connect() -> Any:
        return await jp_ws_fetch(*CELLS)  # its future is of the loop that runs when it is made

    socket = jp_asyncio_loop.run_until_complete(connect())
    yield Page(socket, scheduler.state.cluster_id)

    async def disconnect() -> None:
        socket.close()

    jp_asyncio_loop.run_until_complete(disconnect())


async def test_a_page_follows_a_cell_to_its_end(page: Page, record: str, runtime_directory: Path) -> None:
    directory = str(runtime_directory)
    append_piece(directory, record, "stdout", b"first\n")
    await page.say(watch=record, output=True)
    assert await page.hear("output") == [{"output_type": "stream", "name": "stdout", "text": "first\n"}]
    assert (await page.hear("line"))["state"] == "running"
    shown = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "a"}}
    append_piece(directory, record, DISPLAY, encode_event({**shown, "update": False}))
    append_piece(directory, record, DISPLAY, encode_event({**shown, "update": True}))
    append_piece(directory, record, CLEAR, encode_event({"wait": True}))
    steps: list[Any] = []
    while len(steps) < 3:
        steps += await page.hear("output")
    assert steps == [
        {"output_type": "display_data", "id": "a", "data": {"text/plain": "1"}, "metadata": {}},
        {"update": "a", "data": {"text/plain": "1"}, "metadata": {}},
        {"clear": False},
    ]
    write_ending(directory, record, Ending("failed", ["..."], kind="ValueError", text="bad", where="reef (pid 7)"))
    assert (await page.hear("output"))[0]["ename"] == "ValueError"
    assert (await page.hear("ended"))["text/plain"].startswith(f"✗ fit {record}  failed after")


async def test_without_output_there_is_only_the_line(page: Page, record: str, runtime_directory: Path) -> None:
    append_piece(str(runtime_directory), record, "stdout", b"first\n")
    await page.say(watch=record)
    write_ending(str(runtime_directory), record, Ending("done", names=["model"], seconds=2.0))
    told: list[dict[str, Any]] = []
    while not told or "ended" not in told[-1]:
        told += json.loads(await page.socket.read_message())
    assert not [each for each in told if "output" in each]
    assert "it set model" in told[-1]["ended"]["text/html"]


@pytest.mark.parametrize("watch", ["t999", "../t1", "t1/../t1", "t\u00b2", "cells", "t" + "1" * 40])
async def test_s16_what_names_no_cell_is_unknown(page: Page, record: str, watch: str) -> None:
    await page.say(watch=watch)
    assert await page.hear("unknown") == "its record is not kept any more"


async def test_a_cell_of_another_cluster_is_unknown(page: Page, record: str) -> None:
    page.cluster = "f" * 16
    await page.say(watch=record)
    assert await page.hear("unknown") == "it is not of this server's cluster"


@pytest.mark.parametrize("said", ["", "[]", '{"watch": 7}', '{"run": "t1"}'])
async def test_who_speaks_otherwise_is_no_page_of_ours(page: Page, said: str) -> None:
    await page.socket.write_message(said)
    async with asyncio.timeout(5):
        assert await page.socket.read_message() is None


async def test_a_page_that_leaves_leaves_nothing(
    page: Page, record: str, runtime_directory: Path, extension: Any, jp_ws_fetch: Any
) -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    await page.say(watch=record)
    await page.hear("line")
    assert "atoll-cells" in names()
    await page.say(leave=record)
    async with asyncio.timeout(5):
        while "atoll-cells" in names():
            await asyncio.sleep(0.02)
    await page.say(watch=record)
    await page.hear("line")
    page.socket.close()
    async with asyncio.timeout(5):
        while "atoll-cells" in names() or extension.cells.pages:
            await asyncio.sleep(0.02)


async def test_there_is_an_end_of_pages(page: Page, extension: Any, jp_ws_fetch: Any) -> None:
    extension.cells.pages += MAXIMUM_PAGES
    with pytest.raises(HTTPClientError, match="403"):
        await jp_ws_fetch(*CELLS)
    extension.cells.pages -= MAXIMUM_PAGES
