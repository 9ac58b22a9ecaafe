"""Pictures of the scheduler's figures: SVG without a ground, in colours that are legible on light and on dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scheduling import studies, throughput

GREY = "#808080"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKS = ("o", "s", "^", "D")
DASHES = ("-", "--", "-.", ":")


def write(
    measured: Sequence[throughput.Figures],
    with_past: studies.Fairness,
    without_past: studies.Fairness,
    by_cell: studies.Sharing,
    by_session: studies.Sharing,
    directory: Path,
) -> None:
    """Draw all pictures."""
    _save("throughput", lambda axes: _throughput(measured, axes[0]), 1, directory)
    _save("fairness", lambda axes: _fairness(with_past, without_past, axes), 2, directory)
    _save("sharing", lambda axes: _sharing(by_cell, by_session, axes[0]), 1, directory)


def _throughput(measured: Sequence[throughput.Figures], axes: Any) -> None:
    axes.plot([each.nodes for each in measured], [1e6 / each.rate for each in measured], "o-", color=COLOURS[0])
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes")
    axes.set_ylabel("µs of one core for a placement")


def _fairness(with_past: studies.Fairness, without_past: studies.Fairness, axes: Sequence[Any]) -> None:
    named = ("tasks of 17 s", "tasks of 1 s", "tasks of 1 s", "tasks of 1 s")
    for found, title, place in (
        (with_past, "the past counts", axes[0]),
        (without_past, "the past does not count", axes[1]),
    ):
        for number, held in enumerate(found.over_time):
            place.plot(held, color=COLOURS[number], linestyle=DASHES[number], label=named[number])
        place.set_title(f"{title}: Jain's index {found.fairness:.2f}", fontsize=10, color=GREY)
        place.set_xlabel("seconds")
    axes[0].set_ylabel("seconds of the GPU held")
    axes[0].legend(frameon=False, fontsize=8, labelcolor=GREY)


def _sharing(by_cell: studies.Sharing, by_session: studies.Sharing, axes: Any) -> None:
    for number, (found, name) in enumerate(
        ((by_cell, "a lease for each cell"), (by_session, "a GPU for each notebook, while it is there"))
    ):
        minutes = [0.0, *(ended_s / 60 for ended_s in found.ended_s)]
        axes.step(
            minutes, range(len(minutes)), where="post", color=COLOURS[number], linestyle=DASHES[number], label=name
        )
    axes.set_xlabel("minutes")
    axes.set_ylabel("cells that have ended")
    axes.legend(frameon=False, fontsize=9, labelcolor=GREY)


def _save(name: str, draw: Callable[[Sequence[Any]], None], columns: int, directory: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "atoll", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, axes = plt.subplots(1, columns, figsize=(9, 3.8), layout="constrained", squeeze=False, sharey=True)
    for place in axes[0]:
        place.set_facecolor("none")
        place.tick_params(colors=GREY)
        place.xaxis.label.set_color(GREY)
        place.yaxis.label.set_color(GREY)
        for side, spine in place.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GREY)
    draw(axes[0])
    path = directory / "images" / f"scheduling-{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # Lines do not end in blanks, so that editors and checks leave the file alone.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n", encoding="utf-8")
