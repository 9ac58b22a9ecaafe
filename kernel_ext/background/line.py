"""How a background cell reads, in one line: as text for terminals and saved notebooks, as HTML while it lives. Pure.

○ fit t42  waits · 1 GPU is wanted and 0 of 2 are free · 12 s
● fit t42  on dromedary · GPU 0 · 1 min 05 s · 45 % 45/100 epochs · GPU 97 % ▅▆▇█ · 1.2 GiB
✓ fit t42  done in 3 min 12 s · it set model, score
"""

from __future__ import annotations

from atoll.kernel_ext.background.story import CANCELLED, DONE, FAILED, RUNNING, WAITING, CellStory
from atoll.kernel_ext.errors import SEND_AGAIN
from atoll.kernel_ext.lines import Part, Row, bundle_of, duration
from atoll.kernel_ext.status import progress_parts
from atoll.resources import format_bytes

_BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN_NAMES = 6
SHOWN_CHARACTERS = 120


def sparkline(values: list[float], top: float) -> str:
    """Return values as a row of blocks, the highest standing for `top` or more."""
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[min(steps, max(0, round(value / top * steps)))] for value in values)


def row_of(story: CellStory, now: float) -> Row:
    """Return the line.

    Args:
        story: What is known.
        now: Wall clock.
    """
    glyph = {WAITING: "waiting", RUNNING: "running", DONE: "done", FAILED: "failed", CANCELLED: "cancelled"}
    head = (Part(story.name, strong=True), Part(story.record, faint=True))
    return Row(glyph.get(story.phase, "sent"), head, tuple(_parts(story, now)))


def shown(story: CellStory, now: float) -> dict[str, str]:
    """Return the line as text and as HTML; see `row_of`."""
    return bundle_of(*row_of(story, now))


def _parts(story: CellStory, now: float) -> list[Part]:
    if story.phase == DONE:
        names = story.ending.names if story.ending is not None else []
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        told = [Part(f"it set {', '.join(names[:SHOWN_NAMES])}{more}")] if names else []
        return [Part(f"done in {duration(story.seconds)}"), *told]
    if story.phase == CANCELLED:
        return [Part(f"cancelled after {duration(story.seconds)}")]
    if story.phase == FAILED:
        return [Part(f"failed after {duration(story.seconds)}"), Part(_short(why_it_failed(story)))]
    elapsed = duration(max(0.0, now - story.sent_at))
    if story.phase == RUNNING:
        return [*_place(story, now), *progress_parts(story.progress), *_load(story)]
    if story.phase == WAITING:
        if story.reason.startswith("for "):
            return [Part(_short(f"waits {story.reason}"), story.reason), Part(elapsed)]
        reason = [Part(_short(story.reason), story.reason)] if story.reason else []
        return [Part("waits"), *reason, Part(elapsed)]
    return [Part("sent"), *([Part(elapsed)] if now - story.sent_at >= 1 else [])]


def why_it_failed(story: CellStory) -> str:
    """Return what a cell failed of, in a line."""
    if story.ending is None:
        is_crash = story.death.startswith("WorkerCrashedError: ")
        return f"{story.death}. {SEND_AGAIN}" if is_crash else story.death
    kind, text = story.ending.kind, story.ending.text
    return f"{kind}: {text}" if text else kind


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _place(story: CellStory, now: float) -> list[Part]:
    parts = []
    if story.node:
        parts.append(Part(f"in {story.host}" if story.host else f"on {story.node}"))
    if story.devices:
        parts.append(Part(f"GPU {', '.join(map(str, story.devices))}"))
    began = story.began_at if story.began_at is not None else story.sent_at
    return [*parts, Part(duration(max(0.0, now - began)))]


def _load(story: CellStory) -> list[Part]:
    if not story.samples:
        return []
    last = story.samples[-1]
    if last.gpu_percent is not None:
        values = [sample.gpu_percent or 0.0 for sample in story.samples]
        what, percent, top = "GPU", last.gpu_percent, 100.0
    else:
        values = [sample.cpu_percent for sample in story.samples]
        what, percent, top = "CPU", last.cpu_percent, max(100.0, *values)
    drawn = sparkline(values, top)
    return [Part(f"{what} {percent:.0f} %", blocks=drawn), Part(_size(last.memory_bytes))]


def _size(size_bytes: int) -> str:
    """Return a size in two or three digits, so that the line does not wander: `36 MiB`, `1.2 GiB`."""
    number, unit = format_bytes(size_bytes).split(" ")
    return f"{float(number):.0f} {unit}" if float(number) >= 10 else f"{float(number):.1f} {unit}"
