"""`make demo`: run the example notebooks as a person would in JupyterLab, and tell what happens.

A real Jupyter server is started on a free port of this machine, with the Atoll extension enabled as an installation
enables it. The extension starts the cluster. The notebooks are run cell by cell over the server's REST and WebSocket
interfaces, each in a kernel of its own, the first kernels staying alive; a cell with the tag `after-restart` is run
after its kernel was restarted. For each cell: what it printed and displayed, where its remote part ran, how long it
took. At the end the server is shut down, and it is checked that no process and no file of the cluster is left.

    python notebooks/demo.py [notebook ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from atoll.client.connection import Connection
from atoll.ids import new_process_id
from atoll.plain_text import Painter, duration, printable
from atoll.protocol.cluster_file import ClusterFile, read_cluster_file
from atoll.protocol.handshake import Identity
from atoll.protocol.messages import GetState, State
from atoll.protocol.state import ClusterState, decode_state

HERE = Path(__file__).resolve().parent
START_WITHIN_S = 60.0
CELL_WITHIN_S = 300.0
OUTPUT_LINES = 25

paint = Painter(sys.stdout)


class DemoFailed(Exception):
    """What went wrong, in one line."""


def say(text: str = "", style: str = "") -> None:
    print(paint(text, style) if style else text, flush=True)


class Server:
    """A Jupyter server of this run only: its own port, token, configuration and runtime directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = directory / "runtime"
        self.token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; its log goes to a file."""
        for name in ("runtime", "config", "ipython"):
            (self.directory / name).mkdir(mode=0o700)
        environment = os.environ | {
            "ATOLL_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_CONFIG_DIR": str(self.directory / "config"),
            "IPYTHONDIR": str(self.directory / "ipython"),
            "JUPYTER_TOKEN": self.token,  # not in the arguments, which everybody on the machine can read
        }
        command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={HERE}"]
        if os.geteuid() == 0:
            command.append("--allow-root")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    def log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])

    async def request(self, method: str, path: str, content: Any = None) -> Any:
        """Call the server's REST interface and return what its JSON says."""
        request = HTTPRequest(
            self.url + path,
            method=method,
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"},
            body=None if method in ("GET", "DELETE") else json.dumps(content or {}),
            request_timeout=30,
        )
        answer = await AsyncHTTPClient().fetch(request)
        return json.loads(answer.body) if answer.body else None

    async def wait_until_up(self) -> None:
        """Return when the server answers."""
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise DemoFailed(f"the Jupyter server ended while it started:\n{self.log_tail()}")
            try:
                await self.request("GET", "/api/status")
                return
            except (OSError, HTTPClientError):
                if time.monotonic() > deadline:
                    raise DemoFailed(f"the Jupyter server does not answer:\n{self.log_tail()}") from None
                await asyncio.sleep(0.1)

    async def wait_for_cluster(self) -> ClusterFile:
        """Return the cluster that the extension starts, when it answers."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            for path in self.runtime.glob("atoll-*.json"):
                cluster = read_cluster_file(path)
                if cluster.agent_pid:
                    return cluster
            await asyncio.sleep(0.05)
        raise DemoFailed(f"the Jupyter server started no cluster; is the extension enabled?\n{self.log_tail()}")

    async def stop(self) -> None:
        """Shut the server down, and everything with it."""
        if self.process is None:
            return
        try:
            await self.request("POST", "/api/shutdown")
        except (OSError, HTTPClientError):
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise DemoFailed(f"the Jupyter server did not end within 30 s:\n{self.log_tail()}") from None


class Kernel:
    """A kernel of the server, spoken with over its WebSocket."""

    def __init__(self, server: Server, notebook: Path) -> None:
        self._server = server
        self._notebook = notebook
        self._session = uuid.uuid4().hex
        self._id = ""
        self._socket: WebSocketClientConnection | None = None

    async def start(self) -> None:
        """Start it as the notebook's kernel."""
        session = {
            "path": self._notebook.name,
            "name": self._notebook.name,
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        answer = await self._server.request("POST", "/api/sessions", session)
        self._id = answer["kernel"]["id"]
        await self._connect()

    async def _connect(self) -> None:
        url = f"{self._server.url.replace('http', 'ws')}/api/kernels/{self._id}/channels?session_id={self._session}"
        headers = {"Authorization": f"token {self._server.token}"}
        self._socket = await websocket_connect(HTTPRequest(url, headers=headers), max_message_size=2**27)

    async def restart(self) -> None:
        """Restart it: its variables are gone, its notebook is the same."""
        await self._server.request("POST", f"/api/kernels/{self._id}/restart")
        self.close()
        await self._connect()

    def close(self) -> None:
        """Leave the kernel running and close the connection."""
        if self._socket is not None:
            self._socket.close()

    async def execute(self, source: str) -> str | None:
        """Run a cell, show its output as it comes, and return its error, or None."""
        assert self._socket is not None
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": "execute_request",
            "session": self._session,
            "username": "demo",
            "version": "5.3",
        }
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self._socket.write_message(json.dumps(request))
        replied = idle = False
        error: str | None = None
        shown = Shown()
        while not (replied and idle):
            text = await asyncio.wait_for(self._socket.read_message(), CELL_WITHIN_S)
            if text is None:
                raise DemoFailed(f"the kernel of {self._notebook.name} closed the connection")
            message = json.loads(text)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_reply":
                replied = True
            elif kind == "status":
                idle = content["execution_state"] == "idle"
            elif kind == "error":
                error = "\n".join(content["traceback"]) or f"{content['ename']}: {content['evalue']}"
            else:
                shown.show(kind, content)
        shown.finish()
        return error


class Shown:
    """What a cell shows, as text: streams as they come, displays by their plain text, pictures by their size."""

    def __init__(self) -> None:
        self._partial = ""
        self._lines = 0
        self._changing: dict[str, dict[str, Any]] = {}

    def show(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            *whole, self._partial = (self._partial + content["text"]).split("\n")
            for line in whole:
                self._line(line)
        elif kind in ("execute_result", "display_data", "update_display_data"):
            name = content.get("transient", {}).get("display_id")
            if name:
                self._changing[name] = content["data"]  # what it says in the end is what stays in a notebook
            else:
                self._display(content["data"])

    def _display(self, data: dict[str, Any]) -> None:
        if "image/png" in data:
            self._line(f"[a picture, {len(data['image/png']) * 3 // 4 // 1024} KiB of PNG]")
        elif "".join(data.get("text/plain", "")).strip():
            for line in "".join(data["text/plain"]).split("\n"):
                self._line(line)

    def finish(self) -> None:
        for data in self._changing.values():
            self._display(data)
        if self._partial:
            self._line(self._partial)
        if self._lines > OUTPUT_LINES:
            say(f"      ... {self._lines - OUTPUT_LINES} more lines")

    def _line(self, line: str) -> None:
        self._lines += 1
        if self._lines <= OUTPUT_LINES:
            # Of what a progress bar wrote over and over, the last is what a person sees.
            say("      " + printable(line.rstrip("\r").split("\r")[-1], 110))


def state_of(cluster: ClusterFile) -> ClusterState:
    """Ask the scheduler for the state."""
    with Connection(cluster.scheduler_socket, cluster.key_bytes(), Identity("client", new_process_id())) as connection:
        answer = connection.request(GetState(connection.next_request()))
    assert isinstance(answer, State)
    return decode_state(answer.state)


async def where_it_ran(cluster: ClusterFile, since: float) -> list[str]:
    """Return a line for each thing that ran in the cluster since then: what, where, how long."""
    state: ClusterState | None = None
    # Workers report what they ran a few times a second.
    for _ in range(10):
        state = await asyncio.to_thread(state_of, cluster)
        if any(span.start >= since and span.state != "running" for span in state.spans):
            break
        await asyncio.sleep(0.1)
    assert state is not None
    pids = {lease.worker_id: lease.pid for lease in state.leases}
    nodes = {node.node_id: node.name for node in state.nodes}
    gpus = {lease.worker_id: lease.devices for lease in state.leases if lease.devices}
    simulated = " (simulated)" if state.simulated_devices else ""
    lines = []
    for span in state.spans:
        if span.start < since:
            continue
        place = (
            f"worker {pids.get(span.worker_id) or span.worker_id[:6]} on {nodes.get(span.node_id, 'a node that left')}"
        )
        if span.worker_id in gpus:
            place += f", GPU {', '.join(map(str, gpus[span.worker_id]))}{simulated}"
        many = f"{span.count} x " if span.count > 1 else ""
        still = " so far" if span.state == "running" else ""
        lines.append(f"{many}{printable(span.name, 40)}: {place}, {duration(span.duration_s)}{still}")
    return lines


def title_of(cell: dict[str, Any]) -> str:
    """Return the heading of a text cell, or an empty text."""
    for line in "".join(cell["source"]).splitlines():
        if line.startswith("#"):
            return line.lstrip("# ")
    return ""


async def run_notebook(server: Server, cluster: ClusterFile, path: Path) -> Kernel:
    """Run a notebook and return its kernel, alive."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    total = sum(cell["cell_type"] == "code" for cell in cells)
    say(f"\n{path.name}", "bold")
    began = time.monotonic()
    kernel = Kernel(server, path)
    await kernel.start()
    say(f"  a kernel is up after {duration(time.monotonic() - began)}", "dim")
    number = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and title_of(cell):
            say(f"\n  {title_of(cell)}", "bold")
        if cell["cell_type"] != "code" or not source.strip():
            continue
        number += 1
        if "after-restart" in cell["metadata"].get("tags", []):
            say("  the kernel is restarted", "yellow")
            await kernel.restart()
        say(paint(f"  [{number}/{total}] ", "green") + printable(source.strip().splitlines()[0], 90))
        since, began = time.time(), time.monotonic()
        error = await kernel.execute(source)
        took = time.monotonic() - began
        if error is not None:
            plain = re.sub(r"\x1b\[[\d;]*m", "", error)
            if "raises-exception" not in cell["metadata"].get("tags", []):
                kernel.close()
                raise DemoFailed(f"cell {number} of {path.name} failed:\n{plain}")
            say(f"      failed, as it is meant to: {printable(plain.strip().splitlines()[-1], 80)}", "yellow")
        remote = await where_it_ran(cluster, since) if source.lstrip().startswith("%%") else []
        for line in remote:
            say(f"      ran as {line}", "dim")
        say(f"      took {duration(took)}", "dim")
    return kernel


async def run(notebooks: list[Path], directory: Path) -> None:
    server = Server(directory)
    kernels: list[Kernel] = []
    try:
        began = time.monotonic()
        server.start()
        await server.wait_until_up()
        say(f"a Jupyter server is up after {duration(time.monotonic() - began)}")
        cluster = await server.wait_for_cluster()
        say(f"its Atoll extension has started cluster {cluster.cluster_id} (started by {cluster.started_by})")
        for path in notebooks:
            kernels.append(await run_notebook(server, cluster, path))
    finally:
        for kernel in kernels:
            kernel.close()
        await server.stop()
    check_nothing_left(server, cluster)
    say("\nthe server and the cluster have ended; no process and no file of theirs is left", "green")


def check_nothing_left(server: Server, cluster: ClusterFile) -> None:
    """Make sure that no process and no file outlives the server."""
    deadline = time.monotonic() + 10
    while True:
        left = [process for process in psutil.process_iter() if belongs(process, server.directory)]
        files = [path.name for path in server.runtime.glob("atoll-*") if path.suffix != ".lock"]
        if Path(cluster.directory).exists():
            files.append(cluster.directory)
        if not left and not files:
            return
        if time.monotonic() > deadline:
            raise DemoFailed(f"left behind: {left} {files}")
        time.sleep(0.1)


def belongs(process: psutil.Process, directory: Path) -> bool:
    """Tell whether a process was started in this run, by its environment or its arguments."""
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return str(directory) in " ".join(process.cmdline()) or str(directory) in "".join(process.environ().values())
    except psutil.Error:
        return False


def main(arguments: list[str]) -> int:
    notebooks = [Path(argument).resolve() for argument in arguments] or sorted(HERE.glob("[0-9]*.ipynb"))
    if not notebooks:
        say(f"no notebook in {HERE}", "red")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="atoll-demo-"))
    try:
        asyncio.run(run(notebooks, directory))
    except DemoFailed as error:
        say(f"\nthe demo failed: {error}", "red")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say("\nTo open the same in JupyterLab: make lab")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
