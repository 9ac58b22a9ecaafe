"""Background cells for pages that have lost their kernel's updates: the page was reloaded, or the kernel restarted.

A page sends what it wants, and gets what comes of it, as JSON:

    {"watch": "t42", "cluster": "ab12…", "output": true}    follow this cell; with its output, from the beginning
    {"leave": "t42", "cluster": "ab12…"}                    no more of it

    [{"cell": "t42", "cluster": …, "line": {…}},            its line, as parts
     {…, "output": [step, …]},                              what to add to its output: see `PageSink`
     {…, "ended": {…}},                                     its last line, as text and HTML; nothing follows
     {…, "unknown": "…"}]                                   it cannot be followed, and why

One thread follows the cells of all pages, as a kernel's does (`background/watcher.py`), and ends when there are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import msgspec
from tornado.websocket import WebSocketClosedError

from atoll.exceptions import ClusterLostError
from atoll.kernel_ext.background.story import CellStory
from atoll.kernel_ext.background.watcher import Follower, Watcher
from atoll.kernel_ext.engine.contract import Glance, read_glance
from atoll.kernel_ext.lines import Row, bundle_of, parts_of
from atoll.kernel_ext.outputs import NoSink
from atoll.kernel_ext.records import RecordReader, head_of
from atoll.kernel_ext.server.cluster import ServerCluster
from atoll.kernel_ext.server.page_socket import PageSocket
from atoll.protocol.messages import GetState, State

MAXIMUM_PAGES = 64
MAXIMUM_CELLS = 500
"""Of one page."""

READ_EVERY_S = 0.1
_NUMBER = re.compile(r"t[0-9]{1,12}")
_ASK_TIMEOUT_S = 10.0

Tell = Callable[[dict[str, Any]], None]
"""Takes something for the page; from any thread."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page wants.

    Attributes:
        watch: The number of a cell to follow.
        leave: The number of one to follow no more.
        cluster: The cluster that the cell is of.
        output: Whether its output is wanted, too.
    """

    watch: str = ""
    leave: str = ""
    cluster: str = ""
    output: bool = False


class Cell(NamedTuple):
    """A cell of a page. That cluster may be gone: the page is of a notebook that somebody has kept.

    Attributes:
        cluster: The id of its cluster.
        number: Its number there.
    """

    cluster: str
    number: str


_read_wish = msgspec.json.Decoder(Wish).decode


class PageSink:
    """Makes a cell's output steps for a page. A step is an output of a notebook, or one of

        {"update": id, "data": …, "metadata": …}      of an output that had this `id`
        {"clear": true}                               now; {"clear": false} when the next one comes

    Args:
        tell: Takes the step.
    """

    updates = True

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def text(self, stream: str, text: str) -> None:
        """See `Sink`."""
        self._tell({"output_type": "stream", "name": stream, "text": text})

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """See `Sink`."""
        known = (transient or {}).get("display_id", "")
        shown = {"data": data, "metadata": metadata or {}}
        self._tell({"update": known, **shown} if update else {"output_type": "display_data", "id": known, **shown})

    def result(self, data: Any, metadata: Any) -> None:
        """See `Sink`. A cell that has ended has no `Out[n]` any more, so it is a display."""
        self.display(data, metadata, {}, update=False)

    def clear(self, wait: bool) -> None:
        """See `Sink`."""
        self._tell({"clear": not wait})

    def error(self, kind: str, text: str, lines: list[str], in_result: bool = False) -> None:
        """See `Sink`."""
        self._tell({"output_type": "error", "ename": kind, "evalue": text, "traceback": lines})

    def page(self, data: Any, start: int) -> None:
        """See `Sink`. Nothing on the page could open a pager."""
        self.display(data, {}, {}, update=False)


class PageLine:
    """Tells a page the line of a cell.

    Args:
        tell: Takes it.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: Row | None = None

    def show(self, story: CellStory, row: Row) -> None:
        """See `Shows`."""
        if story.ended:
            self._tell({"ended": bundle_of(*row)})
        elif row != self._told:
            self._tell({"line": parts_of(row)})
        self._told = row


class Mailbox:
    """Brings what the following thread tells to the server's loop, in order, many things at once where many came.

    Args:
        loop: The server's.
        send: Sends to the page; called on the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[list[dict[str, Any]]], None]) -> None:
        self._loop = loop
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []

    def put(self, cell: Cell, told: dict[str, Any]) -> None:
        """Take what is told of a cell. Steps of its output are put together."""
        with self._lock:
            is_first = not self._waiting
            last = self._waiting[-1] if self._waiting else {}
            whose = {"cell": cell.number, "cluster": cell.cluster}
            if "line" in told or "ended" in told or "unknown" in told:
                self._waiting.append({**whose, **told})
            elif "output" in last and last.items() >= whose.items():
                last["output"].append(told)
            else:
                self._waiting.append({**whose, "output": [told]})
        if is_first:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended, and the page with it
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        self._send(waiting)


class CellPages:
    """Follows the cells that pages ask for. To be used on the server's loop.

    Args:
        cluster: The server's.
    """

    def __init__(self, cluster: ServerCluster) -> None:
        self._cluster = cluster
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher = Watcher(self._glance, READ_EVERY_S)
        self.pages = 0

    def follow(self, cell: Cell, *, output: bool, tell: Tell) -> Follower | None:
        """Follow a cell for a page; None if that cannot be, which is told.

        Args:
            cell: As the page names it.
            output: Whether the page wants its output.
            tell: Takes what is to be told.
        """
        self._loop = asyncio.get_running_loop()
        file = self._cluster.file
        if file is None or file.cluster_id != cell.cluster:
            tell({"unknown": "it is not of this server's cluster"})
            return None
        # What a page has sent becomes a file's name only in this form.
        head = head_of(file.directory, cell.number) if _NUMBER.fullmatch(cell.number) else None
        if head is None:
            tell({"unknown": "its record is not kept any more"})
            return None
        sink = PageSink(tell) if output else NoSink()
        follower = Follower(CellStory.of(cell.number, head), RecordReader(file.directory, cell.number), sink)
        follower.lines = [PageLine(tell)]
        self._watcher.follow(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Follow it no more."""
        follower.mute()
        self._watcher.leave(follower)

    def _glance(self) -> Glance:
        """Ask for the cluster's state, in the thread that follows."""
        assert self._loop is not None, "nothing is followed before a page has asked"
        asked = asyncio.run_coroutine_threadsafe(self._cluster.ask(GetState), self._loop)
        try:
            answer = asked.result(_ASK_TIMEOUT_S)
        except CancelledError:
            raise ClusterLostError("the Jupyter server stops") from None
        assert isinstance(answer, State), "the scheduler answers so"
        return read_glance(answer.state)


class CellsHandler(PageSocket):
    """One page's cells."""

    def initialize(self, cells: CellPages) -> None:
        """Take what the route table gives."""
        self.cells = cells
        self._followed: dict[Cell, Follower] = {}
        self._sending: asyncio.Task[None] | None = None
        self._unsent: list[dict[str, Any]] = []
        self._is_counted = False

    def has_room(self) -> bool:
        """See `PageSocket`."""
        return self.cells.pages < MAXIMUM_PAGES

    def open(self, *path: str, **more: str) -> None:
        """Begin."""
        super().open(*path, **more)
        self.cells.pages += 1
        self._is_counted = True
        self._mailbox = Mailbox(asyncio.get_running_loop(), self._send)

    def on_message(self, message: str | bytes) -> None:
        """Take a wish. What is none closes the connection: it is not from our page."""
        try:
            wish = _read_wish(message)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self.close(1003, "no wish")
            return
        cell = Cell(wish.cluster, wish.watch or wish.leave)
        self._leave(cell)
        if not wish.watch or len(self._followed) >= MAXIMUM_CELLS:
            return
        mailbox = self._mailbox
        follower = self.cells.follow(cell, output=wish.output, tell=lambda told: mailbox.put(cell, told))
        if follower is not None:
            self._followed[cell] = follower

    def on_close(self) -> None:
        """Follow nothing any more."""
        for cell in list(self._followed):
            self._leave(cell)
        self._unsent.clear()
        if self._is_counted:
            self._is_counted = False
            self.cells.pages -= 1
        super().on_close()

    def _leave(self, cell: Cell) -> None:
        follower = self._followed.pop(cell, None)
        if follower is not None:
            self.cells.leave(follower)

    def _send(self, told: list[dict[str, Any]]) -> None:
        self._unsent += told
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._push())

    async def _push(self) -> None:
        """Send what there is; what comes while a slow page takes it follows in one message."""
        try:
            while self._unsent:
                told, self._unsent = self._unsent, []
                await self.write_message(json.dumps(told))
        except WebSocketClosedError:
            self._unsent.clear()
        finally:
            self._sending = None
