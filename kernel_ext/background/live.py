"""What a living line tells a page beside its text and its HTML, so that the page can go on with it by itself.

A page that was reloaded has lost the way by which the kernel updates a display. What is in the notebook then names the
cell; the page asks its Jupyter server for it (`server/cells.py`), which follows the cell's record as a kernel does. A
front end that does not know this kind of output shows the HTML or the text. The line of a cell that has ended has none
of it: nothing in a saved notebook waits for anybody.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from atoll.kernel_ext.background.story import CellStory
from atoll.kernel_ext.lines import Row, bundle_of, parts_of

MIME = "application/vnd.atoll.cell+json"


class Page(NamedTuple):
    """What a page is to know of the place where a line is shown.

    Attributes:
        cluster: The id of the cluster.
        output: Whether the cell's output is shown there, too, after its line.
    """

    cluster: str
    output: bool


def bundle(story: CellStory, row: Row, page: Page | None) -> dict[str, Any]:
    """Return a line for all front ends.

    Args:
        story: What is known of the cell.
        row: Its line.
        page: See there; None where no page is.
    """
    shown: dict[str, Any] = dict(bundle_of(*row))
    if page is not None and not story.ended:
        told = {"cluster": page.cluster, "cell": story.record, "output": page.output, "notify": story.notify}
        shown[MIME] = {**told, "line": parts_of(row)}
    return shown
