"""What IPython offers around a cell: help, completion, loading and unloading."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import provisionalcompleter

from atoll.kernel_ext import load_ipython_extension, unload_ipython_extension
from tests.kernel_ext.conftest import Notebook


def test_help_begins_with_examples(notebook: Notebook) -> None:
    text = notebook.shell.object_inspect_text("%%remote")
    assert "%%remote gpu=1" in text
    assert text.index("Examples:") < text.index("key=value")


def completed(notebook: Notebook, text: str) -> list[str]:
    """Complete at the end of a text as a front end does; return what the last word becomes."""
    with provisionalcompleter():
        found = list(notebook.shell.Completer.completions(text, len(text)))
    word = len(text) - len(text.replace("\n", " ").rpartition(" ")[2])
    return [text[word : each.start] + each.text for each in found]


def test_first_lines_are_completed_and_bodies_are_left_to_python(notebook: Notebook) -> None:
    assert completed(notebook, "%%remote g") == ["gpu=", "gpu_mem="]
    assert completed(notebook, "%%remote gpu=1 b") == ["bg"]
    assert "fresh" in completed(notebook, "%%actor llm ")
    notebook.good("remote_name = 1")
    assert completed(notebook, "%%remote gpu=1\nremote_n") == ["remote_name"]
    assert "gpu=" not in completed(notebook, "remote g")


def test_values_are_completed_where_ipython_splits_words(notebook: Notebook) -> None:
    notebook.good("%%actor llm\ndef f(): return 1")
    assert completed(notebook, "%%remote on=") == ["on=llm"]
    assert completed(notebook, "%%remote gpu=1 on=l") == ["on=llm"]
    assert completed(notebook, "%actor l") == ["llm"]


def test_unloading_takes_the_magics_away(notebook: Notebook) -> None:
    def known() -> set[Any]:
        magics = notebook.shell.magics_manager.magics
        return {*magics["cell"], *magics["line"]} & {"remote", "actor", "cluster"}

    assert known() == {"remote", "actor", "cluster"}
    unload_ipython_extension(notebook.shell)
    assert known() == set()
    load_ipython_extension(notebook.shell)
    assert known() == {"remote", "actor", "cluster"}


def test_views_are_shown(notebook: Notebook, capsys: Any) -> None:
    for magic in ("cluster", "jobs", "actors", "objects", "gpus"):
        notebook.good(f"%{magic}")
    assert "the store is empty" in capsys.readouterr().out
