"""Cached cells through IPython and a worker process: what a user types, and what a user is told."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.exceptions import ObjectLostError
from atoll.kernel_ext.cached.entries import KEPT_OF_A_CELL
from tests.kernel_ext.conftest import Notebook


class Told:
    """A notebook whose cached cells tell what they did."""

    def __init__(self, notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
        self.notebook = notebook
        self.names = notebook.names
        self.engine: Any = notebook.engine
        self._capsys = capsys

    def good(self, cell: str) -> str:
        """Run a cell; return what it has shown."""
        self._capsys.readouterr()
        self.notebook.good(cell)
        return self._capsys.readouterr().out

    def said(self, cell: str) -> str:
        """Run a cached cell; return what was said of it, without times."""
        text = next(line for line in self.good(cell).splitlines() if line.startswith("✓ cached: "))
        return re.sub(r"\d+\.\d s", "N s", re.sub(r"\d\d:\d\d", "HH:MM", text)).removeprefix("✓ cached: ")

    def runs(self) -> int:
        """Return how many cells were sent to the worker."""
        return len(self.engine.requests)


@pytest.fixture
def told(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Told]:
    engine: Any = notebook.engine
    monkeypatch.setattr(engine, "kept", str(tmp_path))
    for taking in ("cached.cell", "magics.remote"):  # nobody keeps records where there is no cluster
        monkeypatch.setattr(f"atoll.kernel_ext.{taking}.new_record", lambda _directory: "")
    monkeypatch.setenv("ATOLL_STATUS", "off")
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/sales.ipynb")
    yield Told(notebook, capsys)
    engine.objects.clear()


def test_a_cell_runs_once_and_shows_the_same_again(told: Told) -> None:
    told.good("x = 20")
    cell = "%%cached y\nprint('computing')\ny = x + 1\ny * 2"
    first = told.good(cell)
    told.good("y = None")
    again = told.good(cell)
    assert told.runs() == 1
    assert told.names["y"] == 21
    assert first.startswith("computing\nOut[2]: 42\n")
    assert again.startswith("computing\nOut[4]: 42\n")
    assert told.names["_"] == 42


def test_a_hit_and_a_miss_say_why(told: Told) -> None:
    told.good("def clean(x): return x\nrate = 2")
    cell = "%%cached y\ny = clean(rate)"
    assert told.said(cell) == "miss (nothing kept yet) · computed in N s · keeps y"
    assert told.said(cell) == "hit · y · computed HH:MM by this kernel in N s"
    told.good("def clean(x): return -x")
    assert told.said(cell) == "miss (the function clean changed) · computed in N s · keeps y"
    told.good("rate = 3")
    assert told.said(cell) == "miss (rate changed) · computed in N s · keeps y"
    assert told.said("%%cached y\ny = clean(rate) + 1") == "miss (the cell's code changed) · computed in N s · keeps y"
    told.good("def clean(x): return x\nrate = 2")
    assert told.said(cell).startswith("hit"), "an earlier result is kept beside the later ones"


def test_another_notebook_is_named(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "%%cached y\ny = 1"
    told.said(cell)
    monkeypatch.setattr(told.engine, "job_id", "ff" * 8)
    assert told.said(cell) == "hit · y · computed HH:MM by sales.ipynb in N s"


def test_fresh_runs_in_any_case(told: Told) -> None:
    told.said("%%cached y\ny = 1")
    assert "miss (asked for with fresh)" in told.said("%%cached y fresh\ny = 1")
    assert told.said("%%cached y\ny = 1").startswith("hit")
    assert told.runs() == 2


def test_errors_are_not_kept(told: Told) -> None:
    error = told.notebook.raised("%%cached y\nprint('before')\ny = 1\n1 / 0")
    assert isinstance(error, ZeroDivisionError)
    assert "y" not in told.names
    assert told.engine.objects == {}
    assert "----> 4 1 / 0" in "\n".join(error._render_traceback_())  # type: ignore[attr-defined]


def test_only_what_it_keeps_comes_and_a_change_in_place_is_told(told: Told) -> None:
    told.good("rows = [1]")
    said = told.said("%%cached y\nrows.append(2)\nother = 5\ny = len(rows)")
    assert said.endswith("keeps y · note: it changes rows in place and does not keep it")
    assert told.names["y"] == 2
    assert told.names["rows"] == [1]
    assert "other" not in told.names


def test_without_names_it_keeps_all_that_it_sets(told: Told) -> None:
    assert told.said("%%cached\na = 1\nb = [a]").endswith("keeps a, b")
    told.good("del a, b")
    assert told.said("%%cached\na = 1\nb = [a]").startswith("hit · a, b")
    assert told.names["b"] == [1]


def test_what_it_keeps_is_the_notebooks_own(told: Told) -> None:
    cell = "%%cached rows\nrows = [1]"
    told.said(cell)
    told.good("rows.append(2)")
    assert told.said(cell).startswith("hit")
    assert told.names["rows"] == [1]


def test_functions_that_it_keeps_read_the_notebooks_names(told: Told) -> None:
    cell = "%%cached f\nrate = 2\ndef f(x): return x * rate"
    told.said(cell)
    told.said(cell)
    told.good("rate = 10")
    assert told.good("print(f(1))") == "10\n"


def test_files_that_it_opens_are_seen_and_files_of_the_line_are_looked_at(told: Told, tmp_path: Path) -> None:
    opened, named = tmp_path / "opened.txt", tmp_path / "named.txt"
    for file in (opened, named):
        file.write_text("1")
    told.good(f"from pathlib import Path\nhere = {str(tmp_path)!r}")
    cell = f"%%cached y files={named}\ny = Path(here + '/ope' + 'ned.txt').read_text()"
    told.said(cell)
    assert told.said(cell).startswith("hit")
    opened.write_text("2")
    assert told.said(cell).startswith(f"miss (the file {opened} changed)")
    named.write_text("2")
    assert told.said(cell).startswith(f"miss (the file {named} changed)")
    assert told.names["y"] == "2"


def test_a_file_of_the_line_that_is_not_there_is_told(told: Told) -> None:
    error = told.notebook.raised("%%cached y files=no-such.csv\ny = 1")
    assert str(error) == "files=no-such.csv: there is no such file"
    assert told.runs() == 0


def test_what_changes_while_it_runs_is_not_kept(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "counter.txt"
    file.write_text("1")
    told.good(f"path = {str(file)!r}")
    cell = "%%cached y\ny = int(open(path).read())\nopen(path, 'w').write(str(y + 1))"
    assert told.said(cell) == f"not kept (it changes {file}, which it reads)"
    assert told.names["y"] == 1
    told.said(cell)
    assert told.names["y"] == 2
    assert told.engine.objects == {}


def test_what_cannot_be_compared_runs_each_time(told: Told) -> None:
    told.good("class A: pass\nrows = {A(), A()}")  # which of the two comes first, nobody can tell
    cell = "%%cached y\ny = len(rows)"
    assert told.said(cell) == "not kept (what it reads cannot be compared: a set with two objects that look the same)"
    told.said(cell)
    assert told.names["y"] == 2
    assert told.runs() == 2


def test_what_does_not_travel_is_told(told: Told) -> None:
    told.good("import threading\nlock = threading.Lock()")
    error = told.notebook.raised("%%cached y\ny = lock.locked()")
    assert "cannot take along 'lock': cannot pickle '_thread.lock' object" in str(error)
    assert told.runs() == 0


def test_a_result_that_does_not_travel_is_not_kept(told: Told) -> None:
    said = told.said("%%cached lock, n\nimport threading\nlock = threading.Lock()\nn = 1")
    assert said.startswith("not kept (lock: cannot pickle")
    assert told.names["n"] == 1
    assert told.said("%%cached missing\nn = 1") == "not kept (missing: the cell does not set it)"
    assert told.engine.objects == {}


def test_hints(told: Told) -> None:
    assert told.said("%%cached y\nimport random\ny = random.random()").endswith(
        "note: it uses random numbers without a seed"
    )
    seeded = told.said("%%cached y\nimport random\nrandom.seed(1)\ny = random.random()")
    assert "note" not in seeded
    clock = told.said("%%cached y\nfrom datetime import datetime\ny = datetime.now().year")
    assert clock.endswith("note: it asks for the time")
    programs = told.said("%%cached y\nimport subprocess\ny = subprocess.run(['true']).returncode")
    assert "it starts other programs" in programs
    rng = told.said("%%cached y\nimport numpy as np\ny = np.random.default_rng().random()")
    assert rng.endswith("note: it uses random numbers without a seed")
    assert "note" not in told.said("%%cached y\nimport numpy as np\ny = np.random.default_rng(3).random()")


def test_modules_are_imported_anew(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mod_once.py").write_text("loads = []\n")
    told.good(f"import sys\nhere = {str(tmp_path)!r}")
    told.good("%%remote\nsys.path.insert(0, here)\nimport mod_once\nmod_once.loads.append(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    told.good("%%cached n\nimport mod_once\nn = len(mod_once.loads)")
    assert told.names["n"] == 0, "what an earlier cell has done to the module is no part of this one"


def test_old_results_of_a_cell_go(told: Told) -> None:
    for number in range(7):
        told.said(f"%%cached y\ny = {number}")
    assert len(told.engine.objects) == KEPT_OF_A_CELL
    assert told.said("%%cached y\ny = 6").startswith("hit")
    assert told.said("%%cached y\ny = 1").startswith("miss")


def test_an_entry_of_another_run_is_not_trusted(told: Told, tmp_path: Path) -> None:
    cell = "%%cached y\ny = 1"
    told.said(cell)
    [name] = told.engine.objects
    future = told.engine.objects[name]
    future._id = os.urandom(8)  # as if another kernel had published between the look and the facts
    assert told.said(cell).startswith("miss (what is kept is of another run)")


def test_what_was_lost_is_computed_again(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "%%cached y\ny = 1"
    told.said(cell)

    def lost(_ref: Any) -> Any:
        raise ObjectLostError("gone")

    monkeypatch.setattr(told.engine, "value", lost)
    assert told.said(cell).startswith("miss (what was kept is lost)")


def test_what_is_kept_can_be_seen_and_forgotten(told: Told) -> None:
    told.said("%%cached df, model\ndf = model = 1")
    told.said("%%cached other\nother = 1")
    shown = str(told.notebook.good("%cached").text())
    assert "2 cached results" in shown
    assert "df, model" in shown
    assert told.good("%uncache model") == "1 cached result forgotten\n"
    assert "1 cached result" in told.notebook.good("%cached").title
    assert told.good("%uncache all") == "1 cached result forgotten\n"
    error = told.notebook.raised("%uncache")
    assert "%uncache needs a name" in str(error)


def test_quiet_says_nothing_of_hit_and_miss(told: Told) -> None:
    cell = "%%cached y quiet\nprint('x')\ny = 1"
    assert told.good(cell) == "x\n"
    assert told.good(cell) == "x\n"
    assert told.names["y"] == 1


def test_help_has_examples_first(told: Told) -> None:
    text = told.notebook.shell.magics_manager.magics["cell"]["cached"].__doc__
    assert text.index("%%cached df, model") < text.index("files=PATHS")
