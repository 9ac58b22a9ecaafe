"""What IPython offers around a cell: help, completion, loading and unloading."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from atoll.kernel_ext import completion, load_ipython_extension, unload_ipython_extension
from tests.kernel_ext.conftest import Notebook


def test_help_begins_with_examples(notebook: Notebook) -> None:
    text = notebook.shell.object_inspect_text("%%remote")
    assert "%%remote gpu=1" in text
    assert text.index("Examples:") < text.index("key=value")


def test_first_lines_are_completed_and_bodies_are_left_to_python(notebook: Notebook) -> None:
    def complete(line: str) -> list[str]:
        symbol = line.rsplit(maxsplit=1)[-1] if not line.endswith(" ") else ""
        return completion.complete(notebook.shell, SimpleNamespace(line=line, symbol=symbol))

    assert complete("%%remote g") == ["gpu="]
    assert complete("%%remote gpu=1 b") == ["bg"]
    assert "fresh" in complete("%%actor llm ")
    assert complete("x = 1") == []


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
