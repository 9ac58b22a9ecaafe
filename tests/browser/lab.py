"""A real JupyterLab with fresh directories on a free loopback port, and a page in Chromium that looks at it."""

from __future__ import annotations

import contextlib
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
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]

PATIENCE_S = 60.0
"""How long anything may take that is waited for here: a machine may be busy with others, and nothing is timed."""


@dataclass
class Lab:
    """A running JupyterLab."""

    url: str
    token: str
    directory: Path
    """Where notebooks are."""
    log: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]

    def write_notebook(self, name: str, cells: Sequence[str]) -> str:
        """Write a notebook and return its name."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, self.directory / name)
        return name

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the JSON of a route of the server; None where it has nothing to say."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/{path}", headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            body = response.read()
        return json.loads(body) if body else None

    def end_kernels(self) -> None:
        """End all kernels."""
        for session in self.ask("api/sessions"):
            try:
                self.ask(f"api/sessions/{session['id']}", "DELETE")
            except urllib.error.HTTPError as error:
                # The page that has just been closed may have ended its own at the same time.
                if error.code not in (404, 410):
                    raise


@contextlib.contextmanager
def running_lab(
    *,
    start_cluster: bool,
    simulated_gpus: int = 4,
    linger_s: float = 60.0,
    module: str = "jupyterlab",
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Lab]:
    """Start JupyterLab (or `module`) with our extension, end it, and see that all that it started has gone too."""
    home = Path(tempfile.mkdtemp(prefix="atoll-lab-", dir="/tmp"))
    for name in ("config", "data", "runtime", "notebooks", "ipython", "workspaces", "settings"):
        (home / name).mkdir(mode=0o700)
    # Where the package is installed, it lies among the environment's own.
    shutil.copytree(REPOSITORY / "widgets" / "labextension", home / "labextensions" / "atoll")
    token = secrets.token_hex(16)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ATOLL_", "JUPYTER_"))},
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(REPOSITORY),
        "ATOLL_SIMULATED_GPUS": str(simulated_gpus),
        **more,
    }
    configuration = {
        "ServerApp": {
            "jpserver_extensions": {"atoll": True, "jupyterlab": True},
            "port": _free_port(),
            "ip": "127.0.0.1",
            "root_dir": str(home / "notebooks"),
            "allow_root": True,
            "open_browser": False,
        },
        "IdentityProvider": {"token": token},
        "LabApp": {
            "expose_app_in_browser": True,
            "workspaces_dir": str(home / "workspaces"),
            "user_settings_dir": str(home / "settings"),
            "extension_manager": "readonly",
            "extra_labextensions_path": [str(home / "labextensions")],
        },
        "AtollExtension": {"start_cluster": start_cluster, "linger_s": linger_s},
    }
    (home / "config" / "jupyter_server_config.json").write_text(json.dumps(configuration))
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    log = home / "jupyter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment,
            cwd=home / "notebooks",
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    lab = Lab("", token, home / "notebooks", log, process, environment)
    try:
        _wait_until_it_answers(lab, home / "runtime" / f"jpserver-{process.pid}.json")
        yield lab
    finally:
        _stop(process)
        left = wait_until_gone(home)
        shutil.rmtree(home, ignore_errors=True)
        assert not left, f"left behind: {left}"


def _free_port() -> int:
    """Return a port that is free now; if another takes it meanwhile, the server tries others and says which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_it_answers(lab: Lab, information: Path) -> None:
    """Learn from the file that the server writes where it listens, and wait until it answers there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            lab.url = f"http://127.0.0.1:{json.loads(information.read_text())['port']}"
            lab.ask("api/status")
        except (OSError, json.JSONDecodeError):
            if lab.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"JupyterLab did not come up:\n{lab.log.read_text()[-4000:]}") from None
            time.sleep(0.1)
        else:
            return


def processes_of(directory: Path) -> dict[int, str]:
    """Return the processes whose command line names a directory: kernels and daemons do."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_text().replace("\0", " ")
                if str(directory) in command:
                    found[int(entry.name)] = command
    return found


def wait_until_gone(directory: Path, timeout_s: float = PATIENCE_S) -> dict[int, str]:
    """Wait until no process names a directory; return those that do not go."""
    deadline = time.monotonic() + timeout_s
    while (left := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server as a person would; its kernels and the cluster go with it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@dataclass
class Visit:
    """A page, and what it should not have done."""

    page: Page
    origin: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    _cells: int = 0
    """How many have been added."""

    def run_all(self) -> None:
        """Run all cells of the notebook in front."""
        self.command("notebook:run-all-cells")

    def command(self, name: str, **arguments: Any) -> None:
        """Run a command of JupyterLab; do not wait for what it does."""
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments])

    def run_new_cell(self, source: str) -> Locator:
        """Add a cell at the end of the notebook in front and run it.

        Returns:
            Its outputs: of this very cell, whatever is added behind it; until the page is loaded again.
        """
        self._cells += 1
        self.page.evaluate(
            """([source, number]) => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const model = notebook.model.sharedModel;
                model.insertCell(model.cells.length, {cell_type: 'code', source});
                notebook.activeCellIndex = model.cells.length - 1;
                notebook.activeCell.node.dataset.numberInTest = number;
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            [source, self._cells],
        )
        return self.page.locator(f"[data-number-in-test='{self._cells}'] .jp-Cell-outputArea")

    def printed(self, text: str) -> Locator:
        """Return what cells have printed or shown as text with a whole line of this pattern.

        Sources, the dashboard and JupyterLab itself may have the same words: they are not meant.
        """
        return self.page.locator(".jp-Notebook .jp-RenderedText", has_text=re.compile(rf"^{text}$", re.MULTILINE))

    def wait_until_idle(self) -> None:
        """Wait until the kernel of the notebook in front has done what it was asked for."""
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=PATIENCE_S * 1000,
        )

    def set_theme(self, name: str) -> None:
        """Change JupyterLab's theme: `JupyterLab Dark`, `JupyterLab Light`."""
        self.command("apputils:change-theme", theme=name)

    def restart_kernel(self) -> None:
        """Restart the kernel of the notebook in front, without a question asked; returns when the new one is there."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.wait_until_idle()

    def check(self) -> None:
        """Fail if our code complained or anything beyond the origin was asked for."""
        assert not self.foreign, f"requests to other origins: {self.foreign}"
        assert not self.errors, f"errors in the console: {self.errors}"


_NOT_OURS = (
    # What JupyterLab itself says on a page of a fresh installation.
    "favicon",
    "ResizeObserver loop",
    # What it says of its own debugger's and completer's questions when a kernel restarts before they are answered.
    "Canceled future for ",
)


def visit(context: BrowserContext, lab: Lab, notebook: str) -> Visit:
    """Open a notebook in JupyterLab and wait until its kernel is idle."""
    page = context.new_page()
    seen = Visit(page, lab.url)

    def complain(text: str) -> None:
        if not any(each in text for each in _NOT_OURS):
            seen.errors.append(text)

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complain(f"{message.text} {message.location}")

    def on_request(request: Request) -> None:
        if not request.url.startswith((lab.url, lab.url.replace("http", "ws", 1), "data:", "blob:")):
            seen.foreign.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("request", on_request)
    page.on("websocket", lambda each: seen.foreign.append(each.url) if lab.url.split("//")[1] not in each.url else None)
    # A workspace of its own: in the usual one JupyterLab opens again what other pages had open.
    page.goto(f"{lab.url}/lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?token={lab.token}")
    seen.wait_until_idle()
    return seen


def launch_browser(playwright: Any) -> Browser:
    """Start Debian's Chromium."""
    browser: Browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
    return browser
