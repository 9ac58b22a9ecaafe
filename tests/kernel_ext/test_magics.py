"""Cells through IPython and a worker process: what a user types and what a user gets."""

from __future__ import annotations

import threading
from typing import Any

from atoll.exceptions import TaskUnschedulableError
from tests.kernel_ext.conftest import Notebook
from tests.patience import PATIENCE_S


def test_names_go_there_and_come_back(notebook: Notebook) -> None:
    notebook.good("a = 20\ndef twice(x): return x * factor\nfactor = 2")
    notebook.good("%%remote\nb = twice(a) + 2\nimport json as j")
    assert notebook.names["b"] == 42
    assert notebook.names["j"].__name__ == "json"


def test_the_last_expression_is_shown_and_kept(notebook: Notebook, capsys: Any) -> None:
    notebook.good("%%remote\n6 * 7")
    assert "Out[1]: 42" in capsys.readouterr().out
    assert notebook.names["_"] == 42
    assert notebook.names["Out"] == {1: 42}


def test_semicolon_and_none_show_nothing(notebook: Notebook, capsys: Any) -> None:
    notebook.good("%%remote\n6 * 7;")
    notebook.good("%%remote\nNone")
    assert capsys.readouterr().out == ""


def test_streams_come_in_order(notebook: Notebook, capsys: Any) -> None:
    notebook.good("%%remote\nimport sys\nprint('one')\nprint('two', file=sys.stderr)\nprint('three')")
    captured = capsys.readouterr()
    assert captured.out == "one\nthree\n"
    assert captured.err == "two\n"


def test_capture_around_a_remote_cell(notebook: Notebook) -> None:
    notebook.good("%%capture got\n%%remote\nprint('inside')\ndisplay('shown')\n5")
    assert notebook.names["got"].stdout == "inside\n"
    assert [output.data["text/plain"] for output in notebook.names["got"].outputs] == ["'shown'", "5"]


def test_functions_see_the_notebook_they_came_back_to(notebook: Notebook) -> None:
    notebook.good("%%remote\nscale = 2\ndef scaled(x):\n    return x * scale")
    notebook.good("scale = 10")
    assert notebook.good("scaled(4)") == 40


def test_classes_keep_their_identity(notebook: Notebook) -> None:
    notebook.good("class Point:\n    def __init__(self, x): self.x = x")
    notebook.good("p = Point(1)")
    notebook.good("%%remote\nq = Point(p.x + 1)")
    assert notebook.good("isinstance(q, Point) and q.x") == 2


def test_one_object_stays_one(notebook: Notebook) -> None:
    notebook.good("a = [1]\nb = {'a': a}")
    notebook.good("%%remote\nsame = b['a'] is a\nc = a\nd = [c]")
    assert notebook.names["same"] is True
    assert notebook.names["d"][0] is notebook.names["c"]


def test_changes_in_place_come_back_to_the_same_object(notebook: Notebook) -> None:
    notebook.good("a = [1]\nalias = a\nd = {}\nunchanged = [0]")
    before = notebook.names["unchanged"]
    notebook.good("%%remote\na.append(2)\nd['x'] = unchanged[0]")
    assert notebook.names["alias"] == [1, 2]
    assert notebook.names["a"] is notebook.names["alias"]
    assert notebook.names["d"] == {"x": 0}
    assert notebook.names["unchanged"] is before


def test_deleted_names_are_gone(notebook: Notebook) -> None:
    notebook.good("a = 1")
    notebook.good("%%remote\ndel a")
    assert "a" not in notebook.names


def test_out_brings_only_what_it_names(notebook: Notebook, capsys: Any) -> None:
    notebook.good("%%remote out=b\na, b = 1, 2")
    assert notebook.names["b"] == 2
    assert "a" not in notebook.names
    notebook.good("%%remote out=nothing_like_it\na = 1")
    assert "not brought back: nothing_like_it" in capsys.readouterr().err


def test_what_does_not_pickle_stays_and_is_named(notebook: Notebook, capsys: Any) -> None:
    notebook.good("%%remote\nimport threading\nlock = threading.Lock()\nx = 1")
    assert notebook.names["x"] == 1
    assert "lock" not in notebook.names
    assert "not brought back: lock (cannot pickle '_thread.lock' object)" in capsys.readouterr().err


def test_names_set_before_an_error_come_back(notebook: Notebook) -> None:
    error = notebook.raised("%%remote\nx = 5\n1 / 0")
    assert type(error) is ZeroDivisionError
    assert notebook.names["x"] == 5


def test_an_error_is_the_users_own_with_the_cells_lines(notebook: Notebook) -> None:
    notebook.good("class Odd(ValueError): pass\n\ndef check(x):\n    if x % 2:\n        raise Odd(x)")
    error = notebook.raised("%%remote gpu=0\n\nprint('begin')\ncheck(3)")
    assert type(error) is notebook.names["Odd"]
    text = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "%%remote on " in text
    assert "(pid " in text
    assert "----> 4 check(3)" in text
    assert "----> 5         raise Odd(x)" in text.replace("  ----> ", "----> ")
    assert "Cell In[2]" in text
    assert "Cell In[1], line 5, in check(x)" in text
    assert "kernel_ext" not in text


def test_an_error_that_does_not_pickle_is_shown_all_the_same(notebook: Notebook) -> None:
    notebook.good("class Bad(Exception): pass")
    error = notebook.raised("%%remote\nimport threading\ne = Bad('told')\ne.lock = threading.Lock()\nraise e")
    assert type(error).__name__ == "Bad"
    assert str(error) == "told"


def test_a_group_is_shown_without_our_frames(notebook: Notebook) -> None:
    error = notebook.raised("%%remote\nraise ExceptionGroup('several', [ValueError(1), KeyError(2)])")
    assert type(error).__name__ == "ExceptionGroup"
    text = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "ValueError: 1" in text
    assert "kernel_ext" not in text


def test_top_level_await(notebook: Notebook) -> None:
    notebook.good("%%remote\nimport asyncio\nx = await asyncio.sleep(0.001, result=3)")
    assert notebook.names["x"] == 3


def test_magics_inside_of_a_cell(notebook: Notebook, capsys: Any) -> None:
    notebook.good("a = 3")
    notebook.good("%%remote\nfiles = !echo one two\n%time b = a + 1")
    assert notebook.names["files"] == ["one two"]
    assert notebook.names["b"] == 4
    assert "CPU times" in capsys.readouterr().out


def test_input_is_refused_clearly(notebook: Notebook) -> None:
    error = notebook.raised("%%remote\nx = input('?')")
    assert "cannot ask for input" in str(error)
    assert "kernel_ext" not in "\n".join(error._render_traceback_())  # type: ignore[attr-defined]


def test_quiet_shows_the_output_and_no_status(notebook: Notebook, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("atoll.kernel_ext.status.FIRST_AFTER_S", 0.02)
    notebook.good("%%remote\nimport time\ntime.sleep(0.1)\nx = 1\nx")
    assert "ran on" in capsys.readouterr().out
    notebook.good("%%remote quiet\nimport time\ntime.sleep(0.1)\nx = 1\nx")
    assert capsys.readouterr().out == "Out[2]: 1\n"


def test_values_by_expression(notebook: Notebook) -> None:
    notebook.good("n = 2")
    notebook.good("%%remote cpu={n / 2} mem={2**20}\npass")
    assert notebook.engine.requests[-1][1]["num_cpus"] == 1
    assert notebook.engine.requests[-1][1]["memory"] == 2**20


# ------------------------------------------------------------------------------------------------ bad input


def test_unknown_key(notebook: Notebook) -> None:
    error = notebook.raised("%%remote gpus=1\npass")
    assert str(error) == "unknown option 'gpus'. Did you mean gpu=1?"
    assert error._render_traceback_() == [f"UsageError: {error}"]  # type: ignore[attr-defined]
    assert notebook.engine.requests == []


def test_infeasible_resource_fails_at_once_and_says_the_largest(notebook: Notebook) -> None:
    error = notebook.raised("%%remote gpu=8\npass")
    assert isinstance(error, TaskUnschedulableError)
    assert error._render_traceback_() == [  # type: ignore[attr-defined]
        "TaskUnschedulableError: 8 GPU asked for; the largest node has 2 CPU and no GPU"
    ]


def test_syntax_error_is_shown_as_ipython_shows_it_and_nothing_is_sent(notebook: Notebook) -> None:
    error = notebook.raised("%%remote\nx = 1\ny = = 2")
    assert type(error).__name__ == "SyntaxError"
    lines = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "Cell In[1], line 3" in lines
    assert "y = = 2" in lines
    assert "SyntaxError: invalid syntax" in lines
    assert notebook.engine.requests == []


def test_unpicklable_value_is_named_with_the_reason(notebook: Notebook) -> None:
    notebook.good("import threading\nlock = threading.Lock()\ngood = 1\ndef use(): return lock")
    error = notebook.raised("%%remote\nprint(good, lock)")
    assert "cannot take along 'lock': cannot pickle '_thread.lock' object" in str(error)
    error = notebook.raised("%%remote\nuse()")
    assert "cannot take along 'use': it reads 'lock': cannot pickle '_thread.lock' object" in str(error)
    assert len(error._render_traceback_()) == 1  # type: ignore[attr-defined]
    assert notebook.engine.requests == []


def test_a_name_that_is_certainly_missing(notebook: Notebook) -> None:
    error = notebook.raised("%%remote\nx = 1\nprint(undefind)")
    assert isinstance(error, NameError)
    lines = "\n".join(error._render_traceback_())  # type: ignore[attr-defined]
    assert "----> 3 print(undefind)" in lines
    assert "name 'undefind' is not defined" in lines
    assert notebook.engine.requests == []


def test_a_name_that_may_be_missing_is_the_cells_own_affair(notebook: Notebook) -> None:
    notebook.good("%%remote\ntry:\n    undefind\nexcept NameError:\n    caught = True")
    assert notebook.names["caught"] is True
    error = notebook.raised("%%remote\nif caught:\n    undefind")
    assert type(error) is NameError


# ------------------------------------------------------------------------------------ interrupt, background


def test_interrupt_cancels_and_the_next_cell_works(notebook: Notebook) -> None:
    import signal

    begun = threading.Event()
    notebook.names["begun"] = None
    publish = notebook.shell.display_pub.publish

    def seen(*args: Any, **kwargs: Any) -> None:
        begun.set()
        publish(*args, **kwargs)

    notebook.shell.display_pub.publish = seen

    def press() -> None:
        assert begun.wait(PATIENCE_S)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # as a kernel is interrupted: it wakes whoever waits

    thread = threading.Thread(target=press)
    thread.start()
    error = notebook.raised("%%remote\nimport time\nx = 1\ndisplay('begun')\nwhile True:\n    time.sleep(0.1)")
    thread.join()
    assert isinstance(error, KeyboardInterrupt)
    assert notebook.names["x"] == 1
    notebook.good("%%remote\ny = x + 1")
    assert notebook.names["y"] == 2
