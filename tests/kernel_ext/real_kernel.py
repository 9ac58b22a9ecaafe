"""A real kernel with the magics and a real cluster, and what its cells send on iopub, made comparable."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from atoll.client import daemons, launch
from tests.patience import PATIENCE_S


@contextmanager
def running_cluster(**variables: str) -> Iterator[dict[str, str]]:
    """Start a cluster of its own; yields the environment that finds it."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-cells-"))
    changes = {
        "ATOLL_RUNTIME_DIR": str(directory),
        "ATOLL_NUM_CPUS": "4",
        "ATOLL_STORE_CAPACITY_BYTES": "256M",
        "ATOLL_STATUS": "off",
        **variables,
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        cluster = launch.start_cluster(linger_s=None, started_by="test")
        try:
            yield dict(os.environ)
        finally:
            launch.stop_cluster(cluster)
            daemons.reap()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Ran:
    """What a cell has sent.

    Attributes:
        messages: In order, made comparable.
        status: Of the reply.
        names: Variables afterwards, as text.
    """

    messages: list[tuple[str, Any]] = field(default_factory=list)
    status: str = ""
    names: dict[str, str] = field(default_factory=dict)

    def text(self, stream: str = "stdout") -> str:
        """Return what one of the streams got."""
        return "".join(content for kind, content in self.messages if kind == stream)

    @property
    def error(self) -> dict[str, Any]:
        """Return the error that was shown."""
        return next(content for kind, content in self.messages if kind == "error")


_NAMES = (
    "{name: repr(value) for name, value in globals().items() if not name.startswith('_') "
    "and name not in ('In', 'Out', 'exit', 'quit', 'get_ipython', 'open')}"
)


class Kernel:
    """A kernel in a process of its own."""

    def __init__(self, environment: dict[str, str], observe: str = _NAMES) -> None:
        self._observe = observe
        self.manager = KernelManager()
        # In a test of its own, ipykernel does not capture what is written to the descriptors; in a notebook it does.
        variables = {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"}
        self.manager.start_kernel(env=variables)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.late: list[tuple[str, Any]] = []
        self.good("%load_ext atoll")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy()

    def restart(self) -> None:
        """As a user restarts a kernel: the process is another afterwards."""
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)
        self.good("%load_ext atoll")

    def send(self, code: str, *, observing: bool = True) -> str:
        """Send a cell and return its message's id at once."""
        asked = {"names": self._observe} if observing else {}
        message_id: str = self.client.execute(
            code, user_expressions=asked, store_history=True, stop_on_error=False, allow_stdin=False
        )
        return message_id

    def finish(self, message_id: str, timeout_s: float = PATIENCE_S, *, observing: bool = False) -> Ran:
        """Return what a cell has sent, when it is over."""
        ran = Ran()
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            parent = message["parent_header"].get("msg_id")
            kind, content = message["msg_type"], message["content"]
            if parent != message_id:
                if kind not in ("status", "execute_input"):
                    self.late.append((parent, comparable(kind, content)))
                continue
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind not in ("status", "execute_input"):
                add(ran.messages, comparable(kind, content))
        reply = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
        while reply["parent_header"].get("msg_id") != message_id:
            reply = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
        ran.status = reply["content"]["status"]
        found = reply["content"].get("user_expressions", {}).get("names", {})
        if found.get("status") == "ok":
            ran.names = {name: plain(text) for name, text in eval(found["data"]["text/plain"]).items()}
        elif ran.status == "error" and observing:  # a kernel evaluates expressions only after a cell that was good
            ran.names = self.finish(self.send(""), timeout_s).names
        return ran

    def run(self, code: str) -> Ran:
        """Run a cell."""
        return self.finish(self.send(code))

    def good(self, code: str) -> Ran:
        """Run a cell that must not fail."""
        ran = self.run(code)
        assert ran.status == "ok", ran.messages
        return ran

    def value(self, expression: str) -> str:
        """Return the text of an expression's value."""
        ran = self.good(expression)
        kind, content = ran.messages[-1]
        assert kind == "execute_result"
        text: str = content["data"]["text/plain"]
        return text


def add(messages: list[tuple[str, Any]], message: tuple[str, Any]) -> None:
    """Add a message. Text of one stream is one piece until something else is shown.

    A local kernel sends its two streams in no certain order; remote cells keep it, which another test shows.
    """
    kind, content = message
    if content == "":
        return
    if kind not in ("stdout", "stderr"):
        messages.append(message)
        return
    for index in (-1, -2):
        if len(messages) >= -index and messages[index][0] == kind:
            messages[index] = (kind, messages[index][1] + content)
            return
        if len(messages) < -index or messages[index][0] not in ("stdout", "stderr"):
            break
    messages.append(message)
    if len(messages) > 1 and kind == "stdout" and messages[-2][0] == "stderr":
        messages[-1], messages[-2] = messages[-2], messages[-1]


def comparable(kind: str, content: dict[str, Any]) -> tuple[str, Any]:
    """Return a message without what differs from run to run."""
    if kind == "stream":
        return content["name"], plain(content["text"])
    kept = {name: plain(value) for name, value in content.items() if name not in ("execution_count", "transient")}
    if kind == "error":
        lines = "\n".join(content["traceback"]).split("\n")
        # Remote cells have one line more, which says where they ran.
        kept["traceback"] = [plain(line) for line in lines if not re.match(r"^%%remote on \S+ \(pid \d+\)$", line)]
    transient = content.get("transient") or {}
    if transient.get("display_id"):
        kept["display_id"] = re.sub(r"^[0-9a-f]{16,32}$", "ID", transient["display_id"])
    return kind, kept


def plain(value: Any) -> Any:
    """Return text without colours, addresses, cell numbers and temporary files."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    value = re.sub(r"\x1b\[[0-9;]*m", "", value)
    value = re.sub(r"Cell\s+In\s*\[\d+\]", "Cell In[N]", value)
    value = re.sub(r"0x[0-9a-fA-F]{6,}", "0xN", value)
    value = re.sub(r"\(pid=\d+\)", "(pid=N)", value)  # Python 3.12 warns who forks beside threads
    # Python says a warning once for a place in the code, and the local cell comes first.
    value = re.sub(r"^.*UserWarning: To exit:.*\n.*\n", "", value)
    value = re.sub(r"(CPU times:|Wall time:) .*", r"\1 T", value)
    return re.sub(r"(/tmp/ipykernel_\d+/)?\b\d{6,}\.py", "CELL", value)
