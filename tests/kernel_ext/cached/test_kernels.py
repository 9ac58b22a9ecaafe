"""Cached cells in real kernels on a real cluster: computed once, by whoever comes first, and shared."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_ext.real_kernel import Kernel, Ran, running_cluster
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_cluster() as variables:
        yield variables


@pytest.fixture(scope="module")
def kernels(environment: dict[str, str]) -> Iterator[tuple[Kernel, Kernel]]:
    """Two notebooks whose sets have their elements in different orders; the second shows lines while it waits."""
    first = Kernel({**environment, "PYTHONHASHSEED": "1"})
    try:
        second = Kernel({**environment, "PYTHONHASHSEED": "2", "ATOLL_STATUS": "on"})
        try:
            yield first, second
        finally:
            second.close()
    finally:
        first.close()


def said(ran: Ran) -> str:
    """Return what was said of a cached cell, without times."""
    assert ran.status == "ok", ran.messages
    texts = [
        content["data"]["text/plain"]
        for kind, content in ran.messages
        if kind in ("display_data", "update_display_data") and "cached: " in content["data"]["text/plain"]
    ]
    text = re.sub(r"\d+(\.\d)? s", "N s", re.sub(r"\d\d:\d\d", "HH:MM", texts[-1]))
    return text.partition("cached: ")[2]


def test_two_notebooks_at_once_compute_once(kernels: tuple[Kernel, Kernel], tmp_path: Path) -> None:
    first, second = kernels
    log = tmp_path / "log"
    log.touch()
    cell = f"%%cached y\nimport time\nwith open({str(log)!r}, 'a') as file: file.write('x')\ntime.sleep(0.7)\ny = 42"
    sent = [(kernel, kernel.send(cell, observing=False)) for kernel in (first, second)]
    told = sorted(said(kernel.finish(message)) for kernel, message in sent)
    assert told == [
        "hit · y · computed HH:MM by another kernel in N s · note: it asks for the time",
        "miss (nothing kept yet) · computed in N s · keeps y · note: it asks for the time",
    ]
    assert log.read_text() == "x"
    assert first.value("y") == second.value("y") == "42"


def test_the_bytes_are_shared_and_writing_is_private(kernels: tuple[Kernel, Kernel]) -> None:
    first, second = kernels
    cell = "%%cached big\nimport numpy as np\nbig = np.arange(1_000_000)"
    assert said(first.run(cell)).startswith("miss")
    assert said(second.run(cell)).startswith("hit · big")
    place = "from atoll.kernel_ext.buffers import sealed_place"
    for kernel in kernels:
        kernel.good(place)
    where = "str(sealed_place(memoryview(big).cast('B')))"
    assert first.value(where) == second.value(where) != "'None'"
    first.good("big[0] = -1")
    assert first.value(where) == "'None'"
    assert second.value("int(big[0])") == "0"
    assert said(first.run(cell)).startswith("hit")
    assert first.value("int(big[0])") == "0"


def test_equal_values_of_two_kernels_are_equal(kernels: tuple[Kernel, Kernel]) -> None:
    first, second = kernels
    for kernel in kernels:
        kernel.good(
            "import pandas as pd\nclass Step:\n    def __init__(self, names): self.names = names\n"
            "shops = {'Bergen', 'Turku', 'Lodz'}\nsteps = [Step(frozenset(shops)), {'a': shops}]\n"
            "def pick(frame): return frame[frame['shop'].isin(shops)]\n"
            "frame = pd.DataFrame({'shop': ['Bergen', 'Rome'], 'n': [1, 2]})"
        )
    cell = "%%cached n\nn = len(pick(frame)) + len(steps[0].names)"
    assert said(first.run(cell)).startswith("miss")
    assert said(second.run(cell)).startswith("hit")
    second.good("shops.remove('Turku')")
    assert said(second.run(cell)).startswith("miss (steps changed)"), "of which the shops are part"


def test_a_restart_finds_what_was_kept(kernels: tuple[Kernel, Kernel], environment: dict[str, str]) -> None:
    first, _second = kernels
    first.good("%%cached survives\nsurvives = {'a': 1}\nprint('computed')")
    first.good("import pandas as pd\nframe = pd.DataFrame({'n': [1, 2]})")
    first.good("%persist frame")
    second = Kernel(environment)
    try:
        _finds_all(second)
    finally:
        second.close()


def _finds_all(second: Kernel) -> None:
    ran = second.run("%%cached survives\nsurvives = {'a': 1}\nprint('computed')")
    assert said(ran).startswith("hit · survives · computed HH:MM by another kernel")
    assert ran.text() == "computed\n"
    assert second.value("survives") == "{'a': 1}"
    assert "frame is back" in second.good("%restore").text()
    second.good("frame.loc[0, 'n'] = 5")
    assert second.value("int(frame['n'].sum())") == "7"


def test_a_wait_that_is_given_up_takes_nothing_from_the_other(kernels: tuple[Kernel, Kernel], tmp_path: Path) -> None:
    first, second = kernels
    begun, go = tmp_path / "begun", tmp_path / "go"
    cell = (
        f"%%cached slow\nimport time\nfrom pathlib import Path\nPath({str(begun)!r}).touch()\n"
        # A path that the cell named would count among what it depends on.
        f"go = Path(''.join(reversed({str(go)[::-1]!r})))\nwhile not go.is_file(): time.sleep(0.02)\nslow = 1"
    )
    computing = first.send(cell, observing=False)
    deadline = time.monotonic() + PATIENCE_S
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    waiting = second.send(cell, observing=False)
    shown = ""
    while "another notebook computes it" not in shown:
        content = second.client.get_iopub_msg(timeout=PATIENCE_S)["content"]
        shown = str(content.get("data", ""))
    second.manager.interrupt_kernel()
    assert second.finish(waiting).error["evalue"] == "the wait was given up; the other notebook goes on"
    go.touch()
    assert said(first.finish(computing)).startswith("miss")
    assert second.value("1 + 1") == "2"
    assert said(second.run(cell)).startswith("hit · slow"), "and nobody waits for the one that gave up"


def test_an_interrupted_wait_in_the_library_is_given_up_too(kernels: tuple[Kernel, Kernel], tmp_path: Path) -> None:
    """Or the answer that nobody reads would give it the duty to compute, and all others would wait for it."""
    first, second = kernels
    go = tmp_path / "go"
    first.good(
        "import atoll, time\nfrom pathlib import Path\ndef fails():\n    print('begun', flush=True)\n"
        f"    while not Path({str(go)!r}).exists(): time.sleep(0.02)\n    raise ValueError('no')"
    )
    second.good("import atoll")
    computing = first.send("atoll.cache.get_or_compute('given up', fails)", observing=False)
    while "begun" not in str(first.client.get_iopub_msg(timeout=PATIENCE_S)["content"].get("text", "")):
        pass
    waiting = second.send(
        "print('waits', flush=True)\natoll.cache.get_or_compute('given up', lambda: 1)", observing=False
    )
    while "waits" not in str(second.client.get_iopub_msg(timeout=PATIENCE_S)["content"].get("text", "")):
        pass
    time.sleep(0.3)  # for the claim to be on its way; an interrupt before it would pass this test as well
    second.manager.interrupt_kernel()
    assert second.finish(waiting).error["ename"] == "KeyboardInterrupt"
    go.touch()
    assert first.finish(computing).error["ename"] == "ValueError"
    assert first.value("atoll.cache.get_or_compute('given up', lambda: 2)") == "2"


def test_names_of_the_cluster_are_compared_and_actors_are_not_kept(kernels: tuple[Kernel, Kernel]) -> None:
    first, _second = kernels
    first.good("import atoll\natoll.cache['limit'] = 3")
    cell = "%%cached most\nimport atoll\nmost = atoll.cache['limit'] + atoll.cache.get_or_compute('base', lambda: 4)"
    assert said(first.run(cell)).startswith("miss")
    assert said(first.run(cell)).startswith("hit")
    first.good("atoll.cache['limit'] = 5")
    assert said(first.run(cell)).startswith("miss (the cluster has something else under the name limit)")
    assert first.value("most") == "9"
    first.good("%%actor counter\nn = 0\ndef up():\n    global n\n    n += 1\n    return n")
    for count in (1, 2):
        told = said(first.run("%%cached seen\nseen = counter.up()"))
        assert told.startswith("not kept (what it reads cannot be compared: something that lives on the cluster")
        assert first.value("seen") == str(count)


def test_a_cell_runs_where_the_notebook_is_now(kernels: tuple[Kernel, Kernel], tmp_path: Path) -> None:
    first, _second = kernels
    (tmp_path / "here.txt").write_text("found")
    first.good(f"import os\nbefore = os.getcwd()\nos.chdir({str(tmp_path)!r})\nos.environ['MODE_OF_TODAY'] = 'x'")
    first.good("%%remote\ntext = open('here.txt').read() + os.environ['MODE_OF_TODAY']")
    assert first.value("text") == "'foundx'"
    cell = "%%cached kept\nimport os\nkept = open('here.txt').read() + os.environ['MODE_OF_TODAY']"
    assert said(first.run(cell)).startswith("miss")
    assert said(first.run(cell)).startswith("hit")
    first.good("os.environ['MODE_OF_TODAY'] = 'y'")
    assert said(first.run(cell)).startswith("miss (the variable MODE_OF_TODAY of the environment changed)")
    assert first.value("kept") == "'foundy'"
    first.good("os.chdir(before)\ndel os.environ['MODE_OF_TODAY']")
    first.good("%%remote\nhere = os.getcwd()\nmode = os.environ.get('MODE_OF_TODAY')")
    assert first.value("here == before and mode is None") == "True"
