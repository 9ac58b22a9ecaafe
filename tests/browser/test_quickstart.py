"""The quickstart as a newcomer runs it: in JupyterLab, in a browser, on a real cluster; then its kernel restarts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.lab import REPOSITORY, Lab, Visit, running_lab, visit

NOTEBOOK = REPOSITORY / "notebooks" / "01_quickstart.ipynb"

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not NOTEBOOK.exists(), reason="notebooks/01_quickstart.ipynb is not there"),
]

ALL_RUN = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const code = panel.content.widgets.filter(cell => cell.model.type === 'code');
    const cells = code.filter(cell => cell.model.sharedModel.getSource().trim());
    return cells.every(cell => cell.model.executionState !== 'running' && cell.model.executionCount !== null);
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code')
    .filter(cell => !(cell.model.sharedModel.getMetadata('tags') ?? []).includes('raises-exception'))
    .flatMap(cell => cell.model.outputs.toJSON())
    .filter(output => output.output_type === 'error')
    .map(output => output.ename + ': ' + output.evalue)"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(start_cluster=True) as lab:
        yield lab


def run_all(seen: Visit) -> None:
    """Run all cells and wait until they have run. An error ends the wait: the cells behind it do not run."""
    # A cell without outputs has no number either, until it has run again.
    seen.command("notebook:clear-all-cell-outputs")
    assert not seen.page.evaluate(ALL_RUN)
    seen.run_all()
    seen.page.wait_for_function(f"() => ({ALL_RUN})() || ({ERRORS})().length", timeout=180_000)
    assert seen.page.evaluate(ERRORS) == []


def test_the_quickstart_runs_and_runs_again_after_a_restart(context: BrowserContext, lab: Lab) -> None:
    for each in NOTEBOOK.parent.iterdir():
        if each.is_file():
            shutil.copy(each, lab.directory / each.name)
    seen = visit(context, lab, NOTEBOOK.name)
    page = seen.page
    run_all(seen)
    if page.locator(".atoll").count() == 0:
        seen.run_new_cell("%dashboard")
    expect(page.locator(".atoll .pill").first).to_have_text("●live")
    actors = lab.ask("atoll/api/state")["actors"]
    held = {actor["actor_id"] for actor in actors if actor["name"] and actor["namespace"] != "cells"}
    names = {name["name"] for name in lab.ask("atoll/api/state")["names"]}
    assert held, "an actor with a name"
    assert names, "a table in the cache"

    seen.restart_kernel()
    state = lab.ask("atoll/api/state")
    assert held <= {actor["actor_id"] for actor in state["actors"] if actor["state"] == "alive"}
    assert names <= {name["name"] for name in state["names"]}
    run_all(seen)
    seen.check()
