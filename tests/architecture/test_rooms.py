"""What the design fixes about the source itself, read from its syntax trees."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("atoll", "scheduler", "nodeagent", "kernel_ext", "widgets", "benchmarks")
FILES = sorted(
    path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PURE = sorted(path for path in FILES if {"core", "policy"} & set(path.relative_to(ROOT).parts[:-1]))
ROOMS = sorted(path for path in FILES if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] != "benchmarks")

IMPURE = frozenset(
    {"asyncio", "concurrent", "ctypes", "datetime", "fcntl", "io", "logging", "mmap", "multiprocessing", "os"}
    | {"pathlib", "psutil", "pynvml", "queue", "random", "resource", "secrets", "select", "selectors", "shutil"}
    | {"socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "tornado", "uuid"}
)
IMPURE_CALLS = frozenset({"open", "input", "print", "exec", "eval"})

MAXIMUM_LINES = 800
MAXIMUM_FUNCTION_LINES = 70
CARD_LINES = 5


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> set[str]:
    """Return the top-level names of all modules that are imported anywhere in a file, lazily too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_there_are_cores_to_look_at() -> None:
    assert len(PURE) >= 6


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_cores_and_policies_touch_nothing_outside(path: Path) -> None:
    tree = tree_of(path)
    assert not imported(tree) & IMPURE
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & IMPURE_CALLS
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAXIMUM_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_function_is_too_long(path: Path) -> None:
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAXIMUM_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_every_room_has_its_card(path: Path) -> None:
    card = ast.get_docstring(tree_of(path)) or ""
    assert len([line for line in card.splitlines() if line.strip()]) >= CARD_LINES


def test_every_room_is_packaged() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        "atoll" + "".join(f".{part}" for part in path.parent.relative_to(ROOT).parts if part != "atoll")
        for path in ROOMS
    }
    assert folders == set(packages)
