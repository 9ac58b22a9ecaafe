"""A quiet line about background cells that have ended: above the output of the next cell that is executed.

Nobody looks at the cell that began it any more, or the page was closed meanwhile. A cell whose result was asked for, or
that took a moment only, is not told of.
"""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext.background.line import why_it_failed
from atoll.kernel_ext.background.story import CANCELLED, DONE
from atoll.kernel_ext.lines import Part, bundle_of, duration

WORTH_TELLING_S = 5.0


class Notices:
    """What is to be told.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._cells: list[Any] = []
        self._gone: list[str] = []

    def expect(self, cell: Any) -> None:
        """Tell of a cell when it has ended."""
        self._cells.append(cell)

    def gone(self, record: str) -> None:
        """Drop what a cell has set, whose handle is gone, before the next cell runs. Called by the collector."""
        self._gone.append(record)

    def before_cell(self, _info: Any = None) -> None:
        """IPython's event: a cell is about to run."""
        while self._gone:
            from atoll.kernel_ext.engine.current import current_engine

            current_engine().forget(self._gone.pop())
        ended = [cell for cell in self._cells if cell.done()]
        self._cells = [cell for cell in self._cells if cell not in ended]
        for cell in ended:
            if cell.is_news and cell.seconds >= WORTH_TELLING_S:
                self._shell.display_pub.publish(notice(cell))


def notice(cell: Any) -> dict[str, str]:
    """Return what is told of a cell, as text and as HTML."""
    story = cell.story
    head = [Part(story.name, strong=True), Part(story.record, faint=True)]
    if story.phase == DONE:
        return bundle_of("done", head, [Part(f"is done, after {duration(story.seconds)}")])
    if story.phase == CANCELLED:
        return bundle_of("cancelled", head, [Part("was cancelled")])
    return bundle_of("failed", head, [Part(f"failed after {duration(story.seconds)}"), Part(why_it_failed(story))])
