"""`%%actor`: cells whose namespace lives on."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from atoll.exceptions import TaskUnschedulableError
from atoll.kernel_ext.actors import CellActorHandle, code_digest
from tests.kernel_ext.conftest import Notebook

COUNTER = """%%actor counter
import json
count = start

def add(n: int = 1) -> int:
    global count
    count += n
    print('count is', count)
    return count

def fail(x):
    return 1 / x

def _hidden():
    pass
"""


@pytest.fixture
def counting(notebook: Notebook) -> Notebook:
    notebook.good("start = 10")
    notebook.good(COUNTER)
    return notebook


def test_functions_are_methods_and_state_lives_on(counting: Notebook, capsys: Any) -> None:
    assert counting.good("counter.add()") == 11
    assert counting.good("counter.add(n=5)") == 16
    assert counting.good("counter['count']") == 16
    assert "count is 16\n" in capsys.readouterr().out
    assert "count" not in counting.names
    assert repr(counting.names["counter"]) == "actor counter: add(n=1), fail(x)"


def test_declared_methods_can_be_called_as_any_actors(counting: Notebook) -> None:
    assert counting.engine.wait(counting.engine.actors["counter"].call("add", 2)) == 12


def test_a_name_that_is_something_else_here_is_refused_and_nothing_is_lost(counting: Notebook) -> None:
    assert str(counting.raised("%%actor print\nx = 1")).startswith("print is Python's own")
    assert str(counting.raised("%%remote sum bg\nx = 1")).startswith("sum is Python's own")
    counting.good("df = [1]")
    told = str(counting.raised("%%actor df\nx = 1"))
    assert told == ("df is a variable here (list), which the actor would replace: take another name, or del df first")
    assert counting.names["df"] == [1]
    assert counting.raised("%actor df")
    counting.good(COUNTER)  # its own handle is none of these
    assert list(counting.engine.actors) == ["counter"]


def test_remote_gives_a_ref_at_once(counting: Notebook) -> None:
    assert counting.good("counter.add.remote(n=3)").result(30) == 13


def test_errors_have_the_cells_lines(counting: Notebook) -> None:
    error = counting.raised("counter.fail(0)")
    assert type(error) is ZeroDivisionError
    text = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "counter.fail on " in text
    assert "return 1 / x" in text
    assert "kernel_ext" not in text
    error = counting.raised("counter.nothing()")
    assert "its functions are: add, fail" in str(error)


def test_functions_as_arguments_do_not_touch_the_actors_names(counting: Notebook) -> None:
    counting.good("%%remote on=counter\ndef apply(f): return f(2)")
    counting.good("count = 1000\ndef scaled(x): return x * count")
    assert counting.good("counter.apply(scaled)") == 2000
    assert counting.good("counter['count']") == 10


def test_a_cell_inside_sees_the_state_and_brings_new_names(counting: Notebook) -> None:
    counting.good("bonus = 5\ncount = -1")
    counting.good("%%remote on=counter\nseen = count + bonus\ncount += 1")
    assert counting.names["seen"] == 15
    assert counting.names["count"] == -1
    assert counting.good("counter['count']") == 11
    counting.good("%%remote on=counter out=count\npass")
    assert counting.names["count"] == -1, "a name that the cell does not set does not come"
    counting.good("%%remote on=counter out=now\nnow = count")
    assert counting.names["now"] == 11


def test_running_the_cell_again_updates_functions_and_keeps_state(counting: Notebook) -> None:
    counting.good("counter.add(1)")
    counting.good(COUNTER.replace("count += n", "count += 100 * n").replace("import json", "import json\nextra = 7"))
    assert counting.good("counter.add(1)") == 111
    assert counting.good("counter['extra']") == 7


def test_the_same_cell_again_shows_again_what_it_showed(notebook: Notebook, capsys: Any) -> None:
    cell = "%%actor once\nimport random\nprint('made')\nstate = random.random()\ndef get(): return state"
    notebook.good(cell)
    first = notebook.good("once.get()")
    notebook.engine.job_id = "another kernel"
    capsys.readouterr()
    notebook.good(cell.replace("made')", "made')  # a comment does not matter"))
    notebook.engine.job_id = "0102030405060708"
    assert notebook.good("once.get()") == first
    assert capsys.readouterr().out.startswith("made\nactor once: get()\n")


def test_what_only_its_functions_read_goes_along(notebook: Notebook) -> None:
    notebook.good("import math\nbase = 3\ndef helper(x): return x + base")
    notebook.good("%%actor lazy\nfrom os.path import join\ndef compute(x): return math.floor(helper(x))")
    assert notebook.good("lazy.compute(1.5)") == 4
    assert repr(notebook.names["lazy"]) == "actor lazy: compute(x)"


def test_fresh_makes_it_anew(counting: Notebook) -> None:
    counting.good("counter.add(5)")
    counting.good(COUNTER.replace("%%actor counter", "%%actor counter fresh"))
    assert counting.good("counter['count']") == 10


def test_a_name_that_another_notebooks_cell_holds(counting: Notebook) -> None:
    counting.engine.job_id = "another kernel"
    error = counting.raised("%%actor counter\ncount = 0")
    counting.engine.job_id = "0102030405060708"
    assert "the name 'counter' is held by an actor made in another session with other code" in str(error)
    assert "%%actor counter fresh" in str(error)
    assert len(error._render_traceback_()) == 1  # type: ignore[attr-defined]


class NotACell:
    def method(self) -> int:
        return 1


def test_a_name_that_an_actor_of_another_kind_holds(notebook: Notebook) -> None:
    notebook.engine.make_actor(NotACell, "other", {})
    error = notebook.raised("%%actor other\nx = 1")
    assert "the actor 'other' of the class NotACell was not made by %%actor" in str(error)
    assert len(error._render_traceback_()) == 1  # type: ignore[attr-defined]


def test_an_actor_that_dies_in_its_constructor(notebook: Notebook) -> None:
    error = notebook.raised("%%actor bad\nprint('begin')\nx = {}\nx['missing']\ndef get(): return x")
    assert type(error) is KeyError
    text = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "%%actor bad on " in text
    assert "----> 4 x['missing']" in text
    assert "bad" not in notebook.names
    assert notebook.engine.find_actor("bad") is None
    notebook.good("%%actor bad\nx = 1\ndef get(): return x")
    assert notebook.good("bad.get()") == 1


def test_bad_lines(notebook: Notebook) -> None:
    assert "needs a name: %%actor llm gpu=1" in str(notebook.raised("%%actor\nx = 1"))
    assert "Did you mean fresh?" in str(notebook.raised("%%actor llm frsh\nx = 1"))
    assert isinstance(notebook.raised("%%actor llm gpu=4\nx = 1"), TaskUnschedulableError)
    assert "there is no actor 'nobody'" in str(notebook.raised("%%remote on=nobody\nx = 1"))
    assert "there is no actor 'nobody'" in str(notebook.raised("%actor nobody"))
    notebook.good("%%actor one\nx = 1")
    assert "gpu= has no meaning with on=" in str(notebook.raised("%%remote on=one gpu=1\nx"))


def test_binding_by_name(counting: Notebook, capsys: Any) -> None:
    counting.good("del counter")
    counting.good("%actor counter")
    assert "actor counter: add(n=1), fail(x)\n" in capsys.readouterr().out
    assert counting.good("counter.add()") == 11


def test_a_handle_travels_by_name() -> None:
    handle = pickle.loads(pickle.dumps(CellActorHandle("llm")))
    assert handle._name == "llm"


def test_digest_of_code_leaves_out_comments_and_layout() -> None:
    assert code_digest("x = 1  # a\n\ny = 2") == code_digest("x = 1\ny   = 2")
    assert code_digest("x = 1") != code_digest("x = 2")
    assert code_digest("await x") != code_digest("await y")
