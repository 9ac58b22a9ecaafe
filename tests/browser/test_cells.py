"""Remote cells as a person sees them: JupyterLab in Chromium, a real cluster, one page for all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import PATIENCE_S, Lab, Visit, running_lab, visit

PICTURES = os.environ.get("ATOLL_TEST_PICTURES", "")
"""A directory for pictures of what was seen; none are taken without it."""

NUMBER = re.compile(r"\bt\d+\b")
"""How a task is called in the line of its cell."""


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


def test_output_is_live(seen: Visit, lab: Lab) -> None:
    """Each line is in the page before the worker goes on to the next one, which waits for it."""
    gates = [lab.directory / f"line-{number}-was-seen" for number in range(3)]
    out = seen.run_new_cell(
        "%%remote\nimport pathlib, time\n"
        f"for number, gate in enumerate({[str(gate) for gate in gates]}):\n"
        "    print(f'line {number}.')\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)"
    )
    for number, gate in enumerate(gates):
        expect(out).to_contain_text(f"line {number}.")
        expect(out).not_to_contain_text(f"line {number + 1}.")
        gate.touch()
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


def test_a_page_that_is_reloaded_finds_the_cell_again(seen: Visit, lab: Lab) -> None:
    page = seen.page
    gate = lab.directory / "reloaded"
    out = seen.run_new_cell(f"%%remote long bg\nprint('first words')\n{until(gate, 'steps')}print('last words')")
    expect(out).to_contain_text("first words")
    # The line that names the task may come after what it has printed.
    expect(out).to_contain_text(NUMBER)
    number = NUMBER.search(out.text_content() or "")
    assert number is not None
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    seen.wait_until_idle()
    expect(cell(page, "%%remote long")).to_contain_text("first words")
    picture(page, "reloaded")
    out = seen.run_new_cell("long")
    expect(out).to_contain_text(re.compile(r"●long t\d+\s+on "))
    picture(page, "reloaded-handle")
    gate.touch()
    out = seen.run_new_cell(f"%attach {number[0]}")
    expect(out).to_contain_text(re.compile("first words.*last words", re.DOTALL))
    picture(page, "reloaded-attached")
