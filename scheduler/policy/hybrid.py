"""The usual policy, Ray's: pack until half used, then spread.

Nodes that would stay under the threshold count as equally good, and the first of them is taken: small work stays
together, close to its data, and other nodes stay free for what is large. When every node is beyond it, the least used
is taken, so that load is even where it matters.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.scheduler.policy.candidate import Candidate

THRESHOLD = 0.5


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the node to use among at least one that fits."""
    return min(candidates, key=lambda node: (node.use_after if node.use_after > THRESHOLD else 0.0, node.order))
