"""The dashboard in a real JupyterLab, fed with the sample by a kernel."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.lab import Lab, Visit, visit

SHOW = """
from atoll.widgets.dashboard import Dashboard
from tests.browser.sample_source import SampleSource
dashboard = Dashboard(SampleSource({arguments}))
dashboard
"""


def show(context: BrowserContext, lab: Lab, name: str, arguments: str = "", *more: str) -> Visit:
    """Open a new notebook whose first cell shows the dashboard, and run it."""
    seen = visit(context, lab, lab.write_notebook(name, [SHOW.format(arguments=arguments), *more]))
    seen.run_all()
    expect(seen.page.locator(".atoll .tile b").first).not_to_be_empty(timeout=30_000)
    return seen


def canvas_colors(page: Page) -> int:
    """Return how many different colours the timeline has."""
    return page.evaluate(
        """() => {
            const canvas = document.querySelector('.atoll-dashboard').shadowRoot.querySelector('canvas');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )


def test_all_panels_show_the_state(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "panels.ipynb")
    page = seen.page
    expect(page.locator(".atoll .pill")).to_contain_text("live")
    expect(page.locator(".atoll .badge.simulated")).to_be_visible()
    expect(page.locator(".atoll .device")).to_have_count(4)
    expect(page.locator(".atoll .device .model").first).to_have_text("simulated")
    expect(page.locator(".atoll .chip")).to_have_count(11)
    expect(page.locator(".atoll .waits")).to_contain_text("all 4 GPUs are held")
    running = page.get_by_role("region", name="Running now")
    expect(running.locator("tbody tr")).to_have_count(11)
    expect(running).to_contain_text("flights_model.predict")
    page.get_by_role("tab", name="Actors").click()
    expect(page.get_by_role("region", name="Actors").locator("tbody tr")).to_have_count(3)
    expect(page.get_by_role("region", name="Objects in the lagoon")).to_contain_text("embeddings")
    assert canvas_colors(page) > 50
    seen.check()


def test_it_moves_while_the_kernel_is_busy(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "busy.ipynb", "", "import time; time.sleep(12); print('woken')")
    page = seen.page
    figure = page.locator(".atoll .tile b").first
    readings = set()
    for _ in range(16):
        readings.add(figure.text_content())
        page.wait_for_timeout(250)
    expect(page.get_by_text("woken", exact=True)).to_have_count(0, timeout=1)
    assert len(readings) >= 6, f"twice a second, and in 4 s only {readings}"
    seen.check()


def test_the_theme_is_followed(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "theme.ipynb")
    root = seen.page.locator(".atoll")
    expect(root).to_have_attribute("data-theme", "light")
    light = canvas_colors(seen.page)
    seen.set_theme("JupyterLab Dark")
    expect(root).to_have_attribute("data-theme", "dark")
    assert canvas_colors(seen.page) != light
    seen.set_theme("JupyterLab Light")
    expect(root).to_have_attribute("data-theme", "light")
    seen.check()


def test_the_timeline_has_a_twin_for_the_keyboard(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "keys.ipynb")
    page = seen.page
    button = page.get_by_role("button", name="Table")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="The last tasks")).to_contain_text("train_fold")
    expect(page.locator(".atoll canvas")).to_be_hidden()
    page.locator(".atoll").get_by_role("tab", name="Running").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Actors")).to_be_focused()
    expect(page.get_by_role("region", name="Actors")).to_be_visible()
    seen.check()


HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\u202e{{constructor}}'


def test_s17_hostile_names_are_inert_text(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "hostile.ipynb", f"name={HOSTILE!r}")
    page = seen.page
    page.get_by_role("button", name="Table").click()
    expect(page.get_by_role("region", name="The last tasks")).to_contain_text("<img src=x onerror=")
    page.get_by_role("tab", name="Actors").click()
    page.wait_for_timeout(1000)
    assert page.evaluate("() => window.pwned") is None
    assert page.locator(".atoll img, .atoll script, .atoll iframe, .atoll a").count() == 0
    seen.check()


CLOSE = """
import threading
names = lambda: [thread.name for thread in threading.enumerate()]
before = 'atoll-dashboard' in names()
dashboard.close()
print('thread', before, 'atoll-dashboard' in names())
"""


def test_closing_leaves_no_thread_and_no_view(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "closing.ipynb")
    seen.run_new_cell(CLOSE)
    expect(seen.page.get_by_text("thread True False")).to_be_visible(timeout=15_000)
    expect(seen.page.locator(".atoll")).to_have_count(0)
    seen.check()


STICKING_OUT = """root => {
    const right = root.getBoundingClientRect().right + 1;
    const panels = [...root.querySelectorAll('.panel, .tile, header')];
    return panels.filter(panel => panel.getBoundingClientRect().right > right).map(panel => panel.className);
}"""


@pytest.mark.parametrize("width", [1360, 900])
def test_nothing_sticks_out(browser: Browser, lab: Lab, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    seen = show(context, lab, f"width{width}.ipynb", "nodes=2")
    root = seen.page.locator(".atoll")
    assert root.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert root.evaluate(STICKING_OUT) == []
    seen.check()
    context.close()
