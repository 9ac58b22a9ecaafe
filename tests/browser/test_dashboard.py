"""The dashboard in a real JupyterLab, fed with the sample by a kernel."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.lab import PATIENCE_S, Lab, Visit, visit

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
    expect(seen.page.locator(".atoll .tile b").first).not_to_be_empty()
    return seen


COLORS = """() => {
    const canvas = document.querySelector('.atoll-dashboard').shadowRoot.querySelector('canvas');
    const data = canvas.width && canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(data ? data.buffer : 0));
}"""
"""What colours the timeline has, as the bytes red, green, blue and alpha of a pixel, the first one lowest."""

LIGHT, DARK = 0xFFBB7700, 0xFFE09F3D
"""The hue of the first job in each theme, #0077bb and #3d9fe0."""


def wait_until_drawn(page: Page, condition: str) -> None:
    """Wait until the timeline has colours as a JavaScript expression says; it is drawn some frames after the news."""
    page.wait_for_function(f"() => {{ const colors = ({COLORS})(); return {condition}; }}", timeout=PATIENCE_S * 1000)


def wait_until_it_moves(page: Page, times: int) -> None:
    """Wait until the first figure has had so many different values."""
    figure = page.locator(".atoll .tile b").first
    readings = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(readings) < times:
        assert time.monotonic() < deadline, f"only {readings}"
        readings.add(figure.text_content())
        page.wait_for_timeout(50)


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
    wait_until_drawn(page, "colors.size > 50")
    seen.check()


def test_it_moves_while_the_kernel_is_busy(context: BrowserContext, lab: Lab) -> None:
    gate = lab.directory / "sleep-no-more"
    busy = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.05)\nprint('woken')"
    seen = show(context, lab, "busy.ipynb", "", busy)
    wait_until_it_moves(seen.page, 6)
    expect(seen.printed("woken")).to_have_count(0)
    gate.touch()
    expect(seen.printed("woken")).to_be_visible()
    seen.check()


def test_the_theme_is_followed(context: BrowserContext, lab: Lab) -> None:
    seen = show(context, lab, "theme.ipynb")
    root = seen.page.locator(".atoll")
    expect(root).to_have_attribute("data-theme", "light")
    wait_until_drawn(seen.page, f"colors.has({LIGHT}) && !colors.has({DARK})")
    seen.set_theme("JupyterLab Dark")
    expect(root).to_have_attribute("data-theme", "dark")
    wait_until_drawn(seen.page, f"colors.has({DARK}) && !colors.has({LIGHT})")
    seen.set_theme("JupyterLab Light")
    expect(root).to_have_attribute("data-theme", "light")
    wait_until_drawn(seen.page, f"colors.has({LIGHT}) && !colors.has({DARK})")
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
    # All of it has been drawn more than once.
    wait_until_it_moves(page, 3)
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
    expect(seen.run_new_cell(CLOSE)).to_have_text("thread True False")
    expect(seen.page.locator(".atoll")).to_have_count(0)
    seen.check()


STICKING_OUT = """root => {
    const right = root.getBoundingClientRect().right + 1;
    const panels = [...root.querySelectorAll('.panel, .tile, header')];
    return panels.filter(panel => panel.getBoundingClientRect().right > right).map(panel => panel.className);
}"""


@pytest.mark.parametrize("width", [1360, 900])
def test_nothing_sticks_out(context: BrowserContext, lab: Lab, width: int) -> None:
    seen = show(context, lab, f"width{width}.ipynb", "nodes=2")
    root = seen.page.locator(".atoll")
    assert root.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert root.evaluate(STICKING_OUT) == []
    seen.check()
