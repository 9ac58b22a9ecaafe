"""Remote cells as a person sees them: JupyterLab in Chromium, a real cluster, one page for all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import PATIENCE_S, Lab, Visit, running_lab, visit

PICTURES = os.environ.get("ATOLL_TEST_PICTURES", "")
"""A directory for pictures of what was seen; none are taken without it."""

STEP_BY_STEP = """%%remote
import os, pathlib, subprocess, sys, time
from IPython.display import HTML, display
gates = pathlib.Path({gates!r})
def until_it_is_seen(step):
    while not (gates / f"seen{{step}}").exists(): time.sleep(0.02)
print("step 1"); until_it_is_seen(1)
print("step 2", file=sys.stderr); until_it_is_seen(2)
shown = display(HTML("step 3"), display_id=True); until_it_is_seen(3)
shown.update(HTML("step 4")); until_it_is_seen(4)
os.write(1, b"step 5\\n"); until_it_is_seen(5)
subprocess.run(["echo", "step 6"], check=True); until_it_is_seen(6)
print("step 7")
"""
"""Each thing that it shows is waited for by the cell itself: nothing that comes later can have brought it."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(start_cluster=True, simulated_gpus=2) as lab:
        yield lab


@pytest.fixture(scope="module")
def seen(browser: Browser, lab: Lab) -> Iterator[Visit]:
    """A page with a notebook whose kernel has the magics and a worker that is warm."""
    with browser.new_context(viewport={"width": 1180, "height": 1000}) as context:
        context.set_default_timeout(PATIENCE_S * 1000)
        seen = visit(context, lab, lab.write_notebook("cells.ipynb", ["%load_ext atoll"]))
        seen.command("application:toggle-left-area")
        seen.run_all()
        expect(seen.run_new_cell("%%remote\nprint('warm')")).to_contain_text("warm")
        picture(seen.page, "warm")
        yield seen
        seen.check()
    lab.end_kernels()


def until(gate: Path, steps: str) -> str:
    """Return source that says how far it is until a file is there: it runs as long as the test looks at it."""
    return (
        "import atoll, itertools, pathlib, time\n"
        "for step in itertools.count(1):\n"
        f"    if pathlib.Path({str(gate)!r}).exists():\n"
        "        break\n"
        f"    atoll.progress(min(step, 49), 50, {steps!r})\n"
        "    time.sleep(0.1)\n"
    )


def cell(page: Page, text: str) -> Locator:
    """Return the outputs of the last cell whose source has a text: on a page that was loaded again."""
    return page.locator(".jp-Notebook .jp-CodeCell", has=page.locator(".jp-InputArea", has_text=text)).last.locator(
        ".jp-Cell-outputArea"
    )


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_output_is_there_before_the_cell_goes_on(seen: Visit, lab: Lab) -> None:
    gates = lab.directory / "gates"
    gates.mkdir()
    out = seen.run_new_cell(STEP_BY_STEP.format(gates=str(gates)))
    for step in range(1, 8):
        expect(out).to_contain_text(f"step {step}")
        (gates / f"seen{step}").touch()
    assert re.findall(r"step (\d)", out.text_content() or "") == ["1", "2", "4", "5", "6", "7"]
    picture(seen.page, "streaming")


def test_progress_bars_stay_in_their_line(seen: Visit) -> None:
    out = seen.run_new_cell(
        "%%remote\nfrom tqdm.auto import tqdm\nimport time\nfor _ in tqdm(range(30), 'fit'): time.sleep(0.02)"
    )
    expect(out).to_contain_text("30/30")
    assert (out.text_content() or "").count("fit:") == 1
    picture(seen.page, "bars")


def test_the_line_of_a_cell_comes_late_and_ends_as_plain_html(seen: Visit, lab: Lab) -> None:
    gate = lab.directory / "line"
    out = seen.run_new_cell(f"%%remote slow gpu=1\n{until(gate, 'steps')}")
    expect(out).to_contain_text(re.compile(r"●runs on .*GPU \d.*%.*steps"))
    picture(seen.page, "line-running")
    gate.touch()
    expect(out).to_contain_text(re.compile("✓ran on .* s"))
    picture(seen.page, "line-done")
    assert out.locator("script, iframe").count() == 0


def test_an_interrupt_ends_a_cell_and_the_next_one_works(seen: Visit) -> None:
    out = seen.run_new_cell("%%remote\nimport time\nprint('begun')\nfor _ in range(6000): time.sleep(0.1)")
    expect(out).to_contain_text("begun")
    seen.command("notebook:interrupt-kernel")
    expect(out).to_contain_text("KeyboardInterrupt")
    picture(seen.page, "interrupt")
    expect(seen.run_new_cell("%%remote\n'it ' + 'works'")).to_contain_text("it works")


def test_several_background_cells_each_in_its_own_output(seen: Visit, lab: Lab) -> None:
    page = seen.page
    gate = lab.directory / "background"
    out = {}
    for name in ("one", "two"):
        body = f"print('{name} begins')\n{until(gate, 'epochs')}print('{name} ends')\n{name}_model = 1"
        out[name] = seen.run_new_cell(f"%%remote {name} bg gpu=1 cpu=0.5\n{body}")
    out["three"] = seen.run_new_cell("%%remote three bg gpu=1\nprint('three begins')")
    out["four"] = seen.run_new_cell("%%remote four bg\nboth = one_model + two_model")
    out["five"] = seen.run_new_cell("%%remote five bg\nrows = [1]\nrows[7]")
    for name in ("one", "two"):
        expect(out[name]).to_contain_text(f"{name} begins")
        expect(out[name]).to_contain_text(re.compile(r"●.*GPU \d.*%.*epochs"))
    expect(out["three"]).to_contain_text(re.compile("○.*waits.*GPU"))
    expect(out["four"]).to_contain_text(re.compile("○.*waits for one .*two"))
    expect(seen.run_new_cell("'the kernel is ' + 'free'")).to_contain_text("the kernel is free")
    picture(page, "background-running")
    if PICTURES:
        seen.set_theme("JupyterLab Dark")
        page.wait_for_timeout(1500)
        picture(page, "background-dark")
        seen.set_theme("JupyterLab Light")
    gate.touch()
    expect(out["five"]).to_contain_text("IndexError")
    for name in ("one", "two", "three", "four"):
        expect(out[name]).to_contain_text(re.compile("✓.*done in"))
    for name in ("one", "two"):
        expect(out[name]).to_contain_text(f"{name} ends")
    picture(page, "background-done")


def reload(seen: Visit) -> None:
    """Save the notebook and load the page again."""
    seen.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    seen.page.reload()
    seen.wait_until_idle()


def saved_output(lab: Lab, text: str) -> list[dict[str, Any]]:
    """Return the outputs of the last cell with a text in its source, as they are in the notebook's file."""
    cells = json.loads((lab.directory / "cells.ipynb").read_text())["cells"]
    return next(cell["outputs"] for cell in reversed(cells) if text in "".join(cell["source"]))


FOLLOWED = """%%remote long bg
print('first words')
from IPython.display import HTML, display
shown = display(HTML('a table of 1'), display_id=True)
{before}
print('words between')
shown.update(HTML('a table of 2'))
{after}
print('last words')
"""


def test_a_page_that_is_reloaded_goes_on_by_itself(seen: Visit, lab: Lab) -> None:
    page = seen.page
    gates = [lab.directory / name for name in ("before", "after")]
    seen.run_new_cell(FOLLOWED.format(before=until(gates[0], "steps"), after=until(gates[1], "rounds")))
    expect(cell(page, "%%remote long")).to_contain_text("a table of 1")
    reload(seen)
    out = cell(page, "%%remote long")
    expect(out).to_contain_text("steps")
    gates[0].touch()
    expect(out).to_contain_text(re.compile(r"●long t\d+.*rounds"))
    expect(out).to_contain_text(re.compile("first words.*a table of 2.*words between", re.DOTALL))
    picture(page, "reloaded")
    # Nobody's kernel feeds it any more: the cell belongs to the cluster.
    seen.restart_kernel()
    seen.run_new_cell("%load_ext atoll")
    gates[1].touch()
    expect(out).to_contain_text(re.compile(r"✓long t\d+\s+done in"))
    expect(out).to_contain_text("last words")
    assert (out.text_content() or "").count("first words") == 1, "what was saved is not shown twice"
    picture(page, "reloaded-done")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    left = saved_output(lab, "%%remote long")
    assert sorted(left[0]["data"]) == ["text/html", "text/plain"], "what stays waits for nobody"
    assert [each["output_type"] for each in left] == ["display_data", "stream", "display_data", "stream"]


def test_a_notebook_whose_cluster_is_gone_shows_what_was_saved(seen: Visit, lab: Lab) -> None:
    page = seen.page
    gate = lab.directory / "gone"
    out = seen.run_new_cell(f"%%remote left bg\n{until(gate, 'steps')}")
    expect(out).to_contain_text("steps")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    cluster = lab.ask("atoll/api/health")["cluster_id"]
    notebook = (lab.directory / "cells.ipynb").read_text()
    assert cluster in notebook
    (lab.directory / "old.ipynb").write_text(notebook.replace(cluster, "0" * len(cluster)))
    other = visit(page.context, lab, "old.ipynb")
    line = cell(other.page, "%%remote left").locator(".atoll-cell")
    expect(line).to_have_attribute("title", re.compile("as it was when the notebook was saved"))
    expect(line).to_contain_text(re.compile(r"●left t\d+\s+on .*steps"))
    picture(other.page, "old")
    assert "not found" not in (other.page.locator(".jp-Notebook").text_content() or "")
    other.check()
    other.page.close()
    gate.touch()
    expect(out).to_contain_text("done in")


NOTIFICATIONS = """() => {
    window.told = [];
    window.Notification = class {
        static permission = 'default';
        static async requestPermission() { return Notification.permission = 'granted'; }
        constructor(title, options) { window.told.push([title, options.body]); }
        addEventListener() {}
    };
    Object.defineProperty(document, 'visibilityState', { get: () => window.hides ? 'hidden' : 'visible' });
}"""


def test_the_browser_tells_of_an_end_when_nobody_looks_and_it_may(seen: Visit, lab: Lab) -> None:
    page = seen.page
    page.evaluate(NOTIFICATIONS)
    gates = [lab.directory / name for name in ("told1", "told2")]
    looked_at = seen.run_new_cell(f"%%remote seen bg notify\n{until(gates[0], 'steps')}")
    expect(looked_at).to_contain_text("steps")
    assert page.evaluate("() => Notification.permission") == "default", "nobody is asked unprompted"
    page.get_by_role("button", name="allow notifications").click()
    expect(page.get_by_role("button", name="allow notifications")).to_have_count(0)
    gates[0].touch()
    expect(looked_at).to_contain_text("done in")
    unseen = seen.run_new_cell(f"%%remote unseen bg notify\n{until(gates[1], 'steps')}")
    expect(unseen).to_contain_text("steps")
    page.evaluate("() => { window.hides = true; }")
    gates[1].touch()
    page.wait_for_function("() => window.told.length > 0")
    told = page.evaluate("() => window.told")
    assert len(told) == 1
    assert re.fullmatch(r"✓ unseen t\d+", told[0][0])
    assert told[0][1].startswith("done in")
