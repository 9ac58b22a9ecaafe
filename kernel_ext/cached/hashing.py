"""Digests of bytes: SHA-256, which processors compute in hardware, over pieces that several threads can take.

Large memory is digested in pieces, and the digest of the pieces' digests counts. Memory that came from the store and
was not written to since is digested once in a process: its bytes cannot have changed.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from atoll.kernel_ext.buffers import SHARED_BYTES, sealed_place

PIECE_BYTES = 8 * 2**20
THREADS_FROM_BYTES = 64 * 2**20
KEPT_DIGESTS = 1024

_sealed: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()


def digest_text(text: str) -> str:
    """Return the digest of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_memory(memory: Any) -> bytes:
    """Return the digest of a contiguous buffer's bytes."""
    view = memoryview(memory).cast("B")
    if view.nbytes < SHARED_BYTES:
        return hashlib.sha256(view).digest()
    place = sealed_place(view)
    if place is None:
        return _digest_pieces(view)
    found = _sealed.get(place)
    if found is None:
        found = _sealed[place] = _digest_pieces(view)
        if len(_sealed) > KEPT_DIGESTS:
            _sealed.popitem(last=False)
    _sealed.move_to_end(place)
    return found


def _digest_pieces(view: memoryview) -> bytes:
    pieces = [view[start : start + PIECE_BYTES] for start in range(0, view.nbytes, PIECE_BYTES)]
    if view.nbytes < THREADS_FROM_BYTES:
        digests = list(map(_digest_piece, pieces))
    else:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            digests = list(threads.map(_digest_piece, pieces))
    return hashlib.sha256(b"".join(digests)).digest()


def _digest_piece(piece: memoryview) -> bytes:
    return hashlib.sha256(piece).digest()
