"""Reasons as a notebook and a terminal show them. Pure: explanations in, text and HTML out.

    ○ fit (t42) waits for 1 CPU, 1 GPU · 3 min

      node-1   1 GPU short (2 of 2 GPU in use), held by
               train of a.ipynb: 1 GPU on GPU 0, 12 min
               actor llm of b.ipynb: 1 GPU on GPU 1, 2.0 h

      would begin now if   train of a.ipynb on node-1 ended
                           it asked for 1 CPU
      expected             in 3 min at the earliest

Whatever a user has named is escaped, and made printable for terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from atoll.plain_text import printable
from atoll.protocol.explanation import DONE, FITS, IMPOSSIBLE, RUNS, WAITS, Explanation, NodeReason, duration_text

_MARKS = {WAITS: "○", FITS: "●", IMPOSSIBLE: "✗", RUNS: "●", DONE: "✓"}


class WhyView:
    """Some explanations, shown one below the other.

    Args:
        explanations: They.
        job: This session, as hex: its own requests are not told whose they are.
        empty: What is said where there is none.
        dry: Whether nothing was asked for: it is told what would be.
    """

    def __init__(
        self, explanations: Sequence[Explanation], job: str = "", empty: str = "", *, dry: bool = False
    ) -> None:
        self.explanations = list(explanations)
        self._job = job
        self._empty = empty
        self._dry = dry

    def text(self) -> str:
        """Return them for a terminal."""
        blocks = ["\n".join(self._lines(each)) for each in self.explanations]
        return "\n\n".join(blocks) if blocks else self._empty

    def html(self) -> str:
        """Return them for a notebook: real tables, which look right without any style, too."""
        blocks = "".join(self._block(each) for each in self.explanations)
        return f"<div>{blocks or f'<p>{escape(self._empty)}</p>'}</div>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}

    def __repr__(self) -> str:
        return self.text()

    # ------------------------------------------------------------------------------------------------- the first line

    def _headline(self, each: Explanation) -> tuple[str, str]:
        """Return what it is about, and what is said of it."""
        subject = each.what if not self._dry else "a cell like this"
        if each.count > 1:
            subject += f" ({each.count} times)"
        if each.who and each.job != self._job:
            subject += f" of {each.who}"
        return subject or "it", self._said(each)

    def _said(self, each: Explanation) -> str:
        if each.state == FITS:
            return f"would begin now{each.text.removeprefix('it begins now')}: {each.request}"
        if each.state == IMPOSSIBLE:
            return f"could never begin: {each.text}"
        if each.state != WAITS:
            return each.text
        parts = []
        if each.request:
            parts.append(f"{'would wait' if self._dry else 'waits'} for {each.request}")
        else:
            parts.append("waits")
        if each.waited_s >= 1:
            parts.append(duration_text(each.waited_s))
        if each.before:
            parts.append(f"{each.before} before it")
        if not each.nodes:
            parts.append(each.text)
        return " · ".join(parts)

    def _facts(self, each: Explanation) -> list[tuple[str, list[str]]]:
        """Return what stands below the nodes: a word, and its lines."""
        facts = []
        if each.recalled:
            facts.append(("recalled", [f"{each.recalled} from others, to be returned when their tasks end"]))
        if each.usual:
            facts.append(("usually", [each.usual]))
        if each.changes:
            word = "would be possible if" if each.state == IMPOSSIBLE else "would begin now if"
            facts.append((word, [change.text for change in each.changes]))
        if each.expected:
            facts.append(("expected", [each.expected]))
        return facts

    # ------------------------------------------------------------------------------------------------- plain text

    def _lines(self, each: Explanation) -> Iterator[str]:
        subject, said = self._headline(each)
        yield printable(f"{_MARKS[each.state]} {subject} {said}", 200)
        rows = [row for node in each.nodes for row in _lines_of(node)]
        facts = [
            (word if not number else "", line) for word, lines in self._facts(each) for number, line in enumerate(lines)
        ]
        if rows or facts:
            yield ""
        yield from _columns(rows)
        if each.more_nodes:
            yield f"  and {each.more_nodes} other nodes"
        if rows and facts:
            yield ""
        yield from _columns(facts)

    # ------------------------------------------------------------------------------------------------- HTML

    def _block(self, each: Explanation) -> str:
        subject, said = self._headline(each)
        parts = [f"<p>{_MARKS[each.state]} <b>{escape(subject)}</b> {escape(said)}</p>"]
        if each.nodes:
            rows = [row for node in each.nodes for row in _rows(node)]
            head = _row(["node", "short", "held by"], "th")
            body = "".join(_row(row, "td") for row in rows)
            parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
        if each.more_nodes:
            parts.append(f"<p>and {each.more_nodes} other nodes</p>")
        for word, lines in self._facts(each):
            if len(lines) == 1:
                parts.append(f"<p>{escape(word)}: {escape(lines[0])}</p>")
            else:
                items = "".join(f"<li>{escape(line)}</li>" for line in lines)
                parts.append(f"<p>{escape(word)}:</p><ul>{items}</ul>")
        return "".join(parts)


def _row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f'<{kind} style="text-align:left">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"


def _short(node: NodeReason) -> str:
    return node.text.removeprefix(f"{node.node}: ")


def _holders(node: NodeReason) -> list[str]:
    return [f"{holder.name}: {holder.holds}{f', {holder.since}' if holder.since else ''}" for holder in node.holders]


def _rows(node: NodeReason) -> list[tuple[str, str, str]]:
    """Return a node as rows of a table, a holder each."""
    first, *others = _holders(node) or [""]
    return [(node.node, _short(node), first), *(("", "", other) for other in others)]


def _lines_of(node: NodeReason) -> list[tuple[str, str]]:
    """Return a node as lines, a holder each."""
    held = ", held by" if node.holders else ""
    return [(node.node, _short(node) + held), *(("", holder) for holder in _holders(node))]


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows with their columns aligned; the last column is as wide as it is."""
    shown = [[printable(cell, 160) for cell in row] for row in rows]
    last = len(shown[0]) - 1 if shown else 0
    widths = [max(len(row[column]) for row in shown) for column in range(last)]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield ("  " + "   ".join([*cells, row[-1]])).rstrip()
