from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.kernel_ext.local_modules import LocalModules


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside_one.py").write_text("value = 1\n")
    (tmp_path / "beside_two.py").write_text("import beside_one\nvalue = beside_one.value\n")
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("beside_one", "beside_two"):
        sys.modules.pop(name, None)


def test_an_edited_module_and_those_that_import_it_are_forgotten(beside: Path) -> None:
    modules = LocalModules()
    two = importlib.import_module("beside_two")
    modules.note(began=4e9)
    assert not modules.forget_edited()
    assert sys.modules["beside_two"] is two
    (beside / "beside_one.py").write_text("value = 22\n")
    os.utime(beside / "beside_one.py", (5, 5))
    assert modules.forget_edited()
    assert importlib.import_module("beside_two").value == 22
    assert "json" in sys.modules


def test_a_file_that_was_written_after_the_import_may_have_begun_counts_as_edited(beside: Path) -> None:
    modules = LocalModules()
    importlib.import_module("beside_one")
    modules.note(began=0.0)
    assert modules.forget_edited()
    assert "beside_one" not in sys.modules


def test_a_module_that_is_gone_is_forgotten(beside: Path) -> None:
    modules = LocalModules()
    importlib.import_module("beside_one")
    modules.note(began=4e9)
    (beside / "beside_one.py").unlink()
    assert modules.forget_edited()
