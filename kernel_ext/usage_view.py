"""`%usage` as tables: this notebook today, and all notebooks. Pure: a report in, tables out."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.accounting import BY, HEADINGS, Usage, cells_of, sum_up
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.views import View
from atoll.protocol.usage import UsageReport

TODAY = "today"


@dataclass(frozen=True)
class Views:
    """Several tables below each other."""

    parts: tuple[View, ...]

    def text(self) -> str:
        """Return them for a terminal."""
        return "\n\n".join(part.text() for part in self.parts)

    def html(self) -> str:
        """Return them for a notebook."""
        return "".join(part.html() for part in self.parts)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}


def usage_view(report: UsageReport, flags: frozenset[str], notebook: str) -> View | Views:
    """Return what `%usage` shows.

    Args:
        report: All accounts.
        flags: What stands behind `%usage`: one of `BY`, and `TODAY`.
        notebook: The name of this session.

    Raises:
        MagicUsageError: More than one of `BY` is asked for.
    """
    chosen = [word for word in BY if word in flags]
    if len(chosen) > 1:
        raise MagicUsageError(f"%usage {' '.join(chosen)}: write one of them")
    today = TODAY in flags
    if not flags:
        own = [row for row in report.rows if row.notebook == notebook]
        return Views(
            (
                _table(f"{notebook or 'This notebook'} today", sum_up(own, "cell", today=True), "cell"),
                _table("All notebooks since the cluster was started", sum_up(report.rows, "notebook", today=False)),
            )
        )
    by = chosen[0] if chosen else "cell"
    when = "today" if today else "since the cluster was started"
    title = {"notebook": "Notebooks", "cell": "Cells and actors", "actor": "Actors"}[by]
    return _table(f"{title} {when}", sum_up(report.rows, by, today=today), by, with_notebook=True)


def _table(title: str, rows: list[Usage], by: str = "notebook", *, with_notebook: bool = False) -> View:
    whole = by == "notebook"
    names = [*(["NOTEBOOK"] if whole or with_notebook else []), *([] if whole else ["CELL OR ACTOR"])]
    cells = []
    for one in rows:
        shown = [one.notebook] if whole or with_notebook else []
        if not whole:
            shown.append(f"actor {one.actor}" if one.actor else one.cell)
        cells.append((*shown, str(one.leases), *cells_of(one)))
    return View(title, (*names, ">NOW", *HEADINGS), tuple(cells), "nothing was held")
