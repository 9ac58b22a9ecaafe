"""A real cluster, started by a real Jupyter server, seen from a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocket, expect

from tests.browser.lab import PATIENCE_S, Lab, running_lab, visit

START = """
import atoll, pathlib, time
import numpy

atoll.init()


@atoll.remote(num_gpus=1)
def train(gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.05)
    return 'well'


@atoll.remote
class Counter:
    def __init__(self):
        self.calls = 0

    def add(self):
        self.calls += 1
        return self.calls


counter = Counter.options(name='counter', get_if_exists=True, lifetime='detached').remote()
print('calls', atoll.get(counter.add.remote()))
if 'flights' not in atoll.cache:
    atoll.cache['flights'] = numpy.zeros(1_000_000)
print('table', atoll.cache['flights'].shape)
"""
SHOW = """
from atoll.widgets.dashboard import Dashboard
dashboard = Dashboard()
dashboard
"""
THREADS = """
import threading
own = [thread for thread in threading.enumerate() if thread.name == 'atoll-dashboard']
for thread in own:
    thread.join(10)
print('thread', sum(thread.is_alive() for thread in own))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(start_cluster=True, simulated_gpus=2) as lab:
        yield lab


def wait_until(condition: Callable[[], bool], what: str, page: Page | None = None) -> None:
    """Wait until a condition holds; a page's own events go on meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        page.wait_for_timeout(50) if page else time.sleep(0.05)


def wait_until_running(lab: Lab) -> dict[str, object]:
    wait_until(lambda: lab.ask("atoll/api/health")["phase"] == "running", "the cluster runs")
    health: dict[str, object] = lab.ask("atoll/api/health")
    return health


def wait_until_it_moves(page: Page, news: list[object]) -> None:
    """Wait until the uptime has had three more values, and the server has said something meanwhile."""
    uptime = page.locator(".atoll header .quiet").nth(1)
    before = len(news)
    found = {uptime.text_content()}

    def moved() -> bool:
        found.add(uptime.text_content())
        return len(found) >= 4 and len(news) > before

    wait_until(moved, "the clock goes on and the server says so", page)


def test_the_server_started_the_cluster(lab: Lab) -> None:
    health = wait_until_running(lab)
    assert health["started_here"] is True
    wait_until(lambda: lab.ask("atoll/api/health")["connected"] is True, "the server is connected")


def test_live_while_the_kernel_is_busy_and_after_it_has_died(context: BrowserContext, lab: Lab) -> None:
    wait_until_running(lab)
    gate = Path(lab.directory) / "train-no-more"
    train = f"print('trained', atoll.get(train.remote({str(gate)!r})))"
    seen = visit(context, lab, lab.write_notebook("live.ipynb", [START, SHOW, train]))
    page = seen.page
    news: list[object] = []

    def listen(socket: WebSocket) -> None:
        if "state/watch" in socket.url:
            socket.on("framereceived", lambda frame: news.append(frame))

    page.on("websocket", listen)
    seen.run_all()
    expect(seen.printed(r"table \(1000000,\)")).to_be_visible()
    running = page.get_by_role("region", name="Running now")
    expect(running).to_contain_text("train")
    expect(page.locator(".atoll .pill")).to_have_text("●live")
    expect(page.get_by_role("region", name="Objects in the lagoon")).to_contain_text("flights")
    expect(page.locator(".atoll .device.held")).to_have_count(1)
    expect(page.locator(".atoll .device .model").first).to_have_text("simulated")
    wait_until_it_moves(page, news)
    expect(seen.printed("trained .*")).to_have_count(0)
    gate.touch()
    expect(seen.printed("trained well")).to_be_visible()

    # The server serves the page, so the kernel's own thread has ended.
    expect(seen.run_new_cell(THREADS)).to_have_text("thread 0")

    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    # A cluster in which nothing happens sends a sign of life every two seconds; the clock goes on all the same.
    wait_until_it_moves(page, news)
    expect(page.locator(".atoll .pill")).to_have_text("●live")
    seen.check()


def test_a_restarted_kernel_finds_the_actor_and_the_table(context: BrowserContext, lab: Lab) -> None:
    wait_until_running(lab)
    seen = visit(context, lab, lab.write_notebook("restart.ipynb", [START, SHOW]))
    page = seen.page
    seen.run_all()
    calls = seen.printed(r"calls \d+")
    expect(calls).to_be_visible()
    before = int((calls.text_content() or "").split()[1])
    expect(page.locator(".atoll .tile b").first).not_to_be_empty()
    seen.wait_until_idle()
    seen.restart_kernel()
    seen.command("notebook:clear-all-cell-outputs")
    expect(page.locator(".atoll")).to_have_count(0)
    seen.run_all()
    expect(seen.printed(f"calls {before + 1}")).to_be_visible()
    expect(page.locator(".atoll .tile b").first).not_to_be_empty()
    seen.check()


def test_a_second_page_sees_the_same_cluster(lab: Lab, context: BrowserContext) -> None:
    wait_until_running(lab)
    # The pages of other tests are closed, and the server may not have seen it yet.
    wait_until(lambda: lab.ask("atoll/api/health")["watchers"] == 0, "nobody watches before")
    seen = visit(context, lab, lab.write_notebook("second.ipynb", [START, SHOW]))
    seen.run_all()
    expect(seen.page.locator(".atoll .pill")).to_have_text("●live")
    assert lab.ask("atoll/api/health")["watchers"] == 1
    seen.page.close()
    wait_until(lambda: lab.ask("atoll/api/health")["watchers"] == 0, "a page that is gone is no watcher")
    seen.check()
