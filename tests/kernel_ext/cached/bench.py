"""One edit of a notebook, tried: is what was kept before it used after it?

The cell's key is computed and the cell is run and watched, as a worker does, in this process; then the edit is made, in
a new namespace as in a restarted kernel, and it is asked whether key and dependencies are the same. No cluster is
needed for that, so each edit costs milliseconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.kernel_ext.analysis import analyse
from atoll.kernel_ext.cached.dependencies import Dependencies, changes, dependencies_of, named_files
from atoll.kernel_ext.cached.files import FileLooks
from atoll.kernel_ext.cached.key import CellCode, CellKey, compile_cell, key_of
from atoll.kernel_ext.cached.modules import ModuleFinder
from atoll.kernel_ext.cached.observed import Observer


@dataclass(frozen=True)
class Notebook:
    """What a notebook is at some moment.

    Attributes:
        cells: The cells that ran before, as one text.
        cell: The cached cell.
        files: Files beside it, and what they hold; None for one that is not there.
        variables: Environment variables.
        keeps: What the cell keeps.
        asked: Its `files=`.
        act: Done to the namespace, by the directory, after the cells.
        options: Of its first line.
    """

    cells: str = ""
    cell: str = "out = 1"
    files: dict[str, str | None] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    keeps: tuple[str, ...] = ("out",)
    asked: tuple[str, ...] = ()
    act: Callable[[dict[str, Any]], object] | None = None
    options: tuple[tuple[str, Any], ...] = ()


class Bench:
    """A directory with a notebook in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def hits(self, before: Notebook, after: Notebook) -> bool:
        """Whether what is kept of a cell is used after an edit."""
        with self._in(before):
            namespace = self._opened(before)
            key = self._key(before, namespace)
            dependencies = self._run(before, key, namespace)
        with self._in(after):
            files = FileLooks()
            namespace = self._opened(after)
            if self._key(after, namespace).digest != key.digest:
                return False
            return not changes(dependencies, files, ModuleFinder(files), os.environ, str)

    @contextmanager
    def _in(self, notebook: Notebook) -> Iterator[None]:
        here, variables, path = Path.cwd(), dict(os.environ), list(sys.path)
        os.chdir(self.directory)
        os.environ.update(notebook.variables)
        sys.path.insert(0, str(self.directory))
        for name, text in notebook.files.items():
            file = self.directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink(missing_ok=True)
            elif not file.is_file() or file.read_text() != text:
                file.write_text(text)
        try:
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(variables)
            sys.path[:] = path
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", "")).startswith(str(self.directory)):
                    del sys.modules[name]

    def _opened(self, notebook: Notebook) -> dict[str, Any]:
        namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(notebook.cells, "<cell before>", "exec", dont_inherit=True), namespace)
        if notebook.act is not None:
            notebook.act(namespace)
        return namespace

    def _code(self, notebook: Notebook) -> CellCode:
        return CellCode(notebook.cell, analyse(notebook.cell), notebook.cell.rstrip().endswith(";"))

    def _key(self, notebook: Notebook, namespace: dict[str, Any]) -> CellKey:
        return key_of(self._code(notebook), namespace, notebook.keeps, ModuleFinder(FileLooks()), notebook.options)

    def _run(self, notebook: Notebook, key: CellKey, namespace: dict[str, Any]) -> Dependencies:
        files = FileLooks()
        named = named_files(files, key.mentions.texts, key.paths, notebook.asked)
        variables = dict(os.environ)
        observer = Observer()
        with observer.watching():
            exec(compile_cell(self._code(notebook)), dict(namespace))
        return dependencies_of(named, observer.result(), variables, files)
