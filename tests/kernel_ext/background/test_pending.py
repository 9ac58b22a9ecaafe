"""Names that are still to come from background cells."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.background.pending import PendingNames
from atoll.kernel_ext.background.story import CellStory


class Cell(BackgroundCell):
    """One whose status is set by hand: it needs no cluster."""

    def __init__(self, record: str, status: str = "running") -> None:
        super().__init__(CellStory(record, record, record, 0.0), {})
        self.now = status

    @property
    def status(self) -> str:
        return self.now


def test_a_name_comes_from_the_last_cell_that_sets_it() -> None:
    pending, names = PendingNames(), {"other": 1}
    first, second = Cell("t1"), Cell("t2")
    pending.note(first, ("model", "score"), names)
    pending.note(second, ("model",), names)
    assert pending.needed(["model", "score", "other"], names) == {second: ("model",), first: ("score",)}


def test_what_was_bound_before_is_older_and_what_is_bound_after_is_newer() -> None:
    pending, names = PendingNames(), {"model": [1]}
    cell = Cell("t1")
    pending.note(cell, ("model",), names)
    assert pending.needed(["model"], names) == {cell: ("model",)}
    names["model"] = [1]
    assert pending.needed(["model"], names) == {}
    names["model"] = [2]
    assert pending.needed(["model"], names) == {}, "once it is the notebook's, it stays so"


def test_what_was_bound_before_is_not_kept_alive() -> None:
    class Large:
        pass

    pending, names = PendingNames(), {"model": Large()}
    cell = Cell("t1")
    pending.note(cell, ("model",), names)
    import weakref

    watched = weakref.ref(names["model"])
    names["model"] = Large()
    assert watched() is None
    assert pending.needed(["model"], names) == {}


def test_a_cell_that_failed_has_set_nothing_if_there_is_an_older_value() -> None:
    pending, names = PendingNames(), {"model": 1}
    cell = Cell("t1", "failed")
    pending.note(cell, ("model", "score"), names)
    assert pending.needed(["model", "score"], names) == {cell: ("score",)}


def test_handles_and_what_functions_read_count_too() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def use():\n    return inner()\ndef inner():\n    return model", names)
    pending, cell = PendingNames(), Cell("t1")
    pending.note(cell, ("model",), names)
    names["fit"] = other = Cell("t2")
    assert pending.needed(["use", "fit"], names) == {cell: ("model",), other: ()}
