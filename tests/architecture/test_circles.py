"""No module of the room of cells imports another in a circle, be it where it is used: each can be read by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "kernel_ext"
NAME = "atoll.kernel_ext"


def modules() -> dict[str, Path]:
    """Return the modules that are no packages: a package's `__init__` is its card, or collects what is in it."""
    found = (path for path in ROOM.rglob("*.py") if path.name != "__init__.py")
    return {".".join((NAME, *path.relative_to(ROOM).with_suffix("").parts)): path for path in found}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_the_room_of_cells_has_no_circle() -> None:
    known = modules()
    graph = {
        name: {each for each in imported(ast.parse(path.read_text())) if each in known and each != name}
        for name, path in known.items()
    }
    assert graph[f"{NAME}.background.host"], "imports are found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
