"""When a cell is the same as one that ran before: under what is learned of its needs."""

from __future__ import annotations

import ast
import hashlib


def code_of(body: str, label: str) -> bytes:
    """Return a digest of a cell.

    A cell with a name is the same while its name is: people edit what they run. One without is the same while its code
    is, whatever its comments and blank lines.

    Args:
        body: The cell as it was written.
        label: Its name, or its magic's where it has none.
    """
    said = _normalised(body) if label.startswith("%") else f"name {label}"
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).digest()


def _normalised(body: str) -> str:
    try:
        return ast.dump(ast.parse(body))
    except (SyntaxError, ValueError):  # IPython's own syntax: what it becomes is not known here
        return "\n".join(line.strip() for line in body.splitlines() if line.strip())
