"""One JupyterLab and one Chromium for all browser tests, a fresh page for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.lab import CHROMIUM, PATIENCE_S, Lab, launch_browser, running_lab

expect.set_options(timeout=PATIENCE_S * 1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(240))
            if shutil.which(CHROMIUM) is None:
                item.add_marker(pytest.mark.skip(reason="there is no Chromium here"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """JupyterLab with our extension, which has no cluster."""
    with running_lab(start_cluster=False) as lab:
        yield lab


@pytest.fixture
def width() -> int:
    """How wide a page is; a test may say otherwise."""
    return 1360


@pytest.fixture
def context(browser: Browser, lab: Lab, width: int) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        context.set_default_timeout(PATIENCE_S * 1000)
        yield context
    lab.end_kernels()
