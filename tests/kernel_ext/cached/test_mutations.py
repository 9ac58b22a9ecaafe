"""The mutation test of cached cells: no edit that counts is missed, and few that do not count cost a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.kernel_ext.cached.bench import Bench
from tests.kernel_ext.cached.edits import CODE, FILES, MODULES, MUST_MISS, VALUES, Edit
from tests.kernel_ext.cached.harmless import CHANGES_NOTHING

NEEDED_HITS = 0.9


@pytest.mark.parametrize("edit", MUST_MISS, ids=[edit.name for edit in MUST_MISS])
def test_an_edit_that_counts_is_never_a_hit(edit: Edit, tmp_path: Path) -> None:
    assert not Bench(tmp_path).hits(edit.before, edit.after), f"a stale hit after: {edit.name}"


def test_edits_that_change_nothing_are_hits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed as figures, with those that cost a run although nothing has changed."""
    missed = []
    for number, edit in enumerate(CHANGES_NOTHING):
        directory = tmp_path / str(number)
        directory.mkdir()
        if not Bench(directory).hits(edit.before, edit.after):
            missed.append(edit.name)
    hits = 1 - len(missed) / len(CHANGES_NOTHING)
    parts = {"code": CODE, "values": VALUES, "modules": MODULES, "files and variables": FILES}
    with capsys.disabled():
        counted = ", ".join(f"{len(edits)} of {kind}" for kind, edits in parts.items())
        print(f"\n%%cached: {len(MUST_MISS)} edits that count ({counted})")
        print(f"%%cached: {len(CHANGES_NOTHING)} edits that change nothing, {hits:.0%} hits; not: {', '.join(missed)}")
    assert hits >= NEEDED_HITS, missed


def test_the_edits_are_many_and_each_has_its_own_name() -> None:
    assert len(MUST_MISS) >= 30
    assert [
        name for name, count in Counter(edit.name for edit in MUST_MISS + CHANGES_NOTHING).items() if count > 1
    ] == []


@pytest.mark.parametrize("edit", MUST_MISS[::7], ids=[edit.name for edit in MUST_MISS[::7]])
def test_without_the_edit_it_is_a_hit(edit: Edit, tmp_path: Path) -> None:
    """Or the test above would pass where nothing is ever a hit."""
    assert Bench(tmp_path).hits(edit.before, edit.before)
