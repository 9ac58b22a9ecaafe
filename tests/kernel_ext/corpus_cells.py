"""The corpus: cells of every kind, as data files by kind. See `docs/cells.md` for what `differs` refers to.

[name]
before = "x = 1"        what runs before, in the notebook; may be missing
cell = "x + 1"          what runs once in the kernel and once under %%remote
differs = "Widgets"     it differs on purpose: the heading in docs/cells.md that says why
needs = "rich"          a package that it needs
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class CorpusCell:
    """One of the cells."""

    kind: str
    name: str
    cell: str
    before: str = ""
    differs: str = ""
    needs: str = ""


def read_corpus() -> list[CorpusCell]:
    """Return all cells."""
    found = []
    for path in sorted(DIRECTORY.glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text()).items():
            entry = {key: text.removesuffix("\n") if key == "cell" else text for key, text in entry.items()}
            found.append(CorpusCell(path.stem, name, **entry))
    return found
