"""A real cluster, started by a real Jupyter server, seen from a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, WebSocket, expect

from tests.browser.lab import Lab, running_lab, visit

START = """
import atoll, time
import numpy

atoll.init()


@atoll.remote(num_gpus=1)
def train(seconds):
    time.sleep(seconds)
    return seconds


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
TRAIN = "print('trained', atoll.get(train.remote(8)))"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(start_cluster=True, simulated_gpus=2) as lab:
        yield lab


def wait_until_running(lab: Lab) -> dict[str, object]:
    deadline = time.monotonic() + 20
    while True:
        health: dict[str, object] = lab.ask("atoll/api/health")
        if health["phase"] == "running":
            return health
        assert time.monotonic() < deadline, health
        time.sleep(0.05)


def wait_until_it_moves(page: Page, news: list[object]) -> None:
    """Wait until the uptime has had three more values, and the server has said something meanwhile."""
    uptime = page.locator(".atoll header .quiet").nth(1)
    before = len(news)
    found = {uptime.text_content()}
    deadline = time.monotonic() + 15
    while len(found) < 4 or len(news) == before:
        assert time.monotonic() < deadline, f"{found}, {len(news) - before} messages"
        page.wait_for_timeout(100)
        found.add(uptime.text_content())


def test_the_server_started_the_cluster(lab: Lab) -> None:
    health = wait_until_running(lab)
    assert health["started_here"] is True
    assert health["connected"] is True


def test_live_while_the_kernel_is_busy_and_after_it_has_died(context: BrowserContext, lab: Lab) -> None:
    wait_until_running(lab)
    seen = visit(context, lab, lab.write_notebook("live.ipynb", [START, SHOW, TRAIN]))
    page = seen.page
    news: list[object] = []

    def listen(socket: WebSocket) -> None:
        if "state/watch" in socket.url:
            socket.on("framereceived", lambda frame: news.append(frame))

    page.on("websocket", listen)
    seen.run_all()
    expect(page.get_by_text("table (1000000,)")).to_be_visible(timeout=30_000)
    running = page.get_by_role("region", name="Running now")
    expect(running).to_contain_text("train", timeout=15_000)
    expect(page.locator(".atoll .pill")).to_have_text("●live")
    expect(page.get_by_role("region", name="Objects in the lagoon")).to_contain_text("flights")
    expect(page.locator(".atoll .device.held")).to_have_count(1)
    expect(page.locator(".atoll .device .model").first).to_have_text("simulated")
    wait_until_it_moves(page, news)
    expect(page.get_by_text("trained 8")).to_be_visible(timeout=20_000)

    # The server serves the page, so the kernel's own thread has ended.
    seen.run_new_cell(THREADS)
    expect(page.get_by_text("thread 0")).to_be_visible(timeout=15_000)

    seen.page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    # A cluster in which nothing happens sends a sign of life every two seconds; the clock goes on all the same.
    wait_until_it_moves(page, news)
    expect(page.locator(".atoll .pill")).to_have_text("●live")
    seen.check()


def test_a_restarted_kernel_finds_the_actor_and_the_table(context: BrowserContext, lab: Lab) -> None:
    wait_until_running(lab)
    seen = visit(context, lab, lab.write_notebook("restart.ipynb", [START, SHOW]))
    page = seen.page
    seen.run_all()
    # The dashboard below has a column of that name: only what the cell printed is meant.
    calls = page.locator(".jp-RenderedText", has_text=re.compile(r"calls \d+"))
    expect(calls).to_be_visible(timeout=30_000)
    before = int((calls.text_content() or "").split()[1])
    expect(page.locator(".atoll .tile b").first).not_to_be_empty(timeout=15_000)
    seen.restart_kernel()
    page.wait_for_timeout(500)
    expect(page.get_by_text("Idle").first).to_be_visible(timeout=30_000)
    seen.run_all()
    expect(page.locator(".jp-RenderedText", has_text=f"calls {before + 1}\n")).to_be_visible(timeout=30_000)
    expect(page.locator(".atoll .tile b").first).not_to_be_empty(timeout=15_000)
    seen.check()


def test_a_second_page_sees_the_same_cluster(browser: Browser, lab: Lab, context: BrowserContext) -> None:
    wait_until_running(lab)
    seen = visit(context, lab, lab.write_notebook("second.ipynb", [START, SHOW]))
    seen.run_all()
    expect(seen.page.locator(".atoll .pill")).to_have_text("●live", timeout=30_000)
    assert lab.ask("atoll/api/health")["watchers"] == 1
    seen.page.close()
    deadline = time.monotonic() + 10
    while lab.ask("atoll/api/health")["watchers"] != 0:
        assert time.monotonic() < deadline, "a page that is gone is no watcher"
        time.sleep(0.05)
    seen.check()
