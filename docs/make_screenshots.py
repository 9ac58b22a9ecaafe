"""Make the pictures of README.md: run a notebook in a real JupyterLab in Chromium and photograph it.

    python docs/make_screenshots.py [notebooks/01_quickstart.ipynb]

Writes `dashboard-light.png`, `dashboard-dark.png` and `remote-cell.png` to `docs/images/`. Nothing in them is arranged:
the cluster is real, what runs in it is the notebook, and GPUs are simulated, and marked so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.browser.lab import Visit, launch_browser, running_lab, visit  # noqa: E402 # found by the line above

IMAGES = Path(__file__).parent / "images"
_RUN_TIMEOUT_MS = 300_000


def main(notebook: Path) -> None:
    """Take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, running_lab(start_cluster=True, simulated_gpus=4) as lab:
        shutil.copy(notebook, lab.directory / notebook.name)
        browser = launch_browser(playwright)
        context = browser.new_context(viewport={"width": 1440, "height": 1000}, device_scale_factor=2)
        seen = visit(context, lab, notebook.name)
        seen.command("application:toggle-left-area")
        seen.run_all()
        _wait_until_idle(seen.page)
        remote = seen.page.locator(".jp-CodeCell", has_text="%%remote").first
        remote.scroll_into_view_if_needed()
        remote.screenshot(path=IMAGES / "remote-cell.png")
        watching = visit(context, lab, lab.write_notebook("watching.ipynb", ["%load_ext atoll", "%dashboard"]))
        watching.command("application:toggle-left-area")
        watching.run_all()
        _photograph_dashboard(seen, watching)
        seen.check()
        watching.check()
        browser.close()


def _wait_until_idle(page: Page) -> None:
    """Wait until no cell is marked as running or waiting."""
    page.wait_for_function(
        """() => {
            const cells = window.jupyterapp.shell.currentWidget.content.widgets;
            return cells.filter(cell => cell.model.type === 'code' && cell.model.sharedModel.getSource().trim())
                .every(cell => cell.model.executionState !== 'running' && cell.model.executionCount !== null);
        }""",
        timeout=_RUN_TIMEOUT_MS,
    )


def _photograph_dashboard(working: Visit, watching: Visit) -> None:
    """Run the notebook again, and take the dashboard's picture beside it while the cluster is busy."""
    page = watching.page
    dashboard = page.locator(".atoll").first
    expect(dashboard.locator(".tile b").first).not_to_be_empty(timeout=20_000)
    for theme in ("Dark", "Light"):
        watching.set_theme(f"JupyterLab {theme}")
        expect(dashboard).to_have_attribute("data-theme", theme.lower())
        dashboard.scroll_into_view_if_needed()
        working.run_all()
        # Its cells take a moment each; this is in the midst of them.
        page.wait_for_timeout(2500)
        dashboard.screenshot(path=IMAGES / f"dashboard-{theme.lower()}.png")
        _wait_until_idle(working.page)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "notebooks" / "01_quickstart.ipynb")
