"""What `peers.py` has measured as Markdown and as a figure.

This module must not know how anything is timed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from measure import Spread, machine_line, markdown
from peer_jobs import CONTESTANTS, EAGER, FILES, MONAI_FILES, OURS, Contestant
from peer_runs import Kept

from napari_unetpp.core.errors import FileError

START, END = "<!-- written by benchmarks/peers.py -->", "<!-- end of what it wrote -->"
_FLOOR = "floor"
_BUSY = 0.1  # share of the processors from which on others' work shows in the figures
_TITLES = {1: "2D, `nuclei`", 2: "3D, `ct-head-neck`"}


def order(kept: Kept, sizes: list[str]) -> list[str]:
    """Return the rows of some sizes in the order of the table."""
    there = {row for size in sizes for row in kept.rows(size)}
    rows = [f"{one.title}{level}" for one in _all() for level in ("", *_levels(kept))]
    return [row for row in rows if row in there]


def _all() -> Iterator[Contestant]:
    for group in CONTESTANTS.values():
        yield from group


def _levels(kept: Kept) -> list[str]:
    return [f", L{k}" for k in sorted({k for run in kept.runs for k in run.macs})]


def figure_of(kept: Kept, size: str, row: str) -> Spread | None:
    """Return what a cell of the table says."""
    if row.startswith(_FLOOR):
        run = next((r for r in reversed(kept.runs) if r.size == size), None)
        return run.floor(row[-1]) if run is not None and row[-1] in run.macs else None
    run = kept.with_rows(size, [row])
    return run.relative(row) if run is not None else None


def table(kept: Kept, sizes: list[str]) -> str:
    """Return the table of planes, or of volumes."""
    rows = [*order(kept, sizes), *(f"{_FLOOR}{level}" for level in _levels(kept))]
    cells = []
    for row in rows:
        figures = [figure_of(kept, size, row) for size in sizes]
        cells.append(
            [row, _work(kept, sizes, row), *("" if f is None else str(f) for f in figures)]
        )
    return markdown([_TITLES[sizes[0].count("x")], "work", *(s.replace("x", "×") for s in sizes)],
                    cells)  # fmt: skip


def _work(kept: Kept, sizes: list[str], row: str) -> str:
    """Return a row's work; a range where it depends on the size, as that of windows does."""
    if row.startswith(_FLOOR):
        return ""
    found = [run.work[row] for s in sizes if (run := kept.with_rows(s, [row])) is not None]
    low, high = (f"{end:.2f}" for end in (min(found), max(found)))
    return low if low == high else f"{low}–{high}"


def remarks(kept: Kept) -> Iterator[str]:
    """Yield how each size was measured."""
    for size in kept.sizes:
        for run in (r for r in kept.runs if r.size == size):
            base = Spread.of(run.seconds[run.base]).median
            busy = " (too much to be fair: PyTorch's threads wait for each other, ours less)"
            yield (
                f"- {size.replace('x', '×')}: {run.rounds} round(s) on {run.date}, ours by "
                f"{run.backend} in {run.precision}; 1 is {base:.3g} s; "
                f"others took {100 * run.others:.0f} % of the processors meanwhile"
                f"{busy if run.others >= _BUSY else ''}."
            )


def aims(kept: Kept) -> Iterator[str]:
    """Yield each aim, what was found, and whether it is met."""
    amx = bool(kept.machine.get("amx"))
    top, low = _ends(kept)
    whole, quick = f"{OURS.title}{top}", f"{OURS.title}{low}"
    eager = f"{EAGER.title}{top}"
    if run := kept.with_rows("512x512", [whole, eager]):
        bound = 0.12 if amx else 0.6
        yield _aim(f"{whole} at 512×512, of {eager}", run.relative(whole, eager), bound)
    if run := kept.with_rows("512x512", [whole, quick]):
        yield _aim(f"{quick} at 512×512, of its{top[1:]}", run.relative(quick, whole), 0.2)
    theirs, ours = MONAI_FILES.title, f"{FILES.title}{top}"
    if run := kept.with_rows("2048x2048", [theirs, ours]):
        where = "" if amx else " with AMX, which this machine has not"
        yield _aim(f"{ours}, at 2048×2048, of {theirs}", run.relative(ours, theirs), 0.15, where)
    for size in kept.sizes:
        if run := kept.with_rows(size, [whole]):
            share = run.floor(top[-1], whole)
            words = "met" if share.median >= 0.5 else "**missed**"
            yield (
                f"- floor at {size.replace('x', '×')} over {whole}: {share}; "
                f"the aim is at least 0.5: {words}."
            )


def _ends(kept: Kept) -> tuple[str, str]:
    levels = _levels(kept)
    return levels[-1], levels[0]


def _aim(title: str, found: Spread, bound: float, where: str = "") -> str:
    words = "met" if found.median <= bound else "**missed**"
    return f"- {title}: {found}; the aim is at most {bound:g}{where}: {words}."


def report(kept: Kept) -> str:
    """Return everything as Markdown."""
    if not kept.runs:
        return "Nothing was measured."
    parts = [f"{machine_line(kept.machine)}."]
    of_dims = [[s for s in kept.sizes if s.count("x") == dims] for dims in (1, 2)]
    parts += [table(kept, sizes) for sizes in of_dims if sizes]
    parts += ["\n".join(remarks(kept)), "\n".join(aims(kept))]
    if kept.absent:
        parts.append("\n".join(f"- Not measured: {one}." for one in kept.absent))
    return "\n\n".join(part for part in parts if part)


def write_into(page: Path, text: str, figure: Path | None = None) -> None:
    """Put the report into a page, between the two marks, and a figure below it.

    Raises
    ------
    FileError
        If the page has not both of them.
    """
    before = page.read_text(encoding="utf-8")
    head, start, rest = before.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise FileError(
            f"{page} is expected to hold {START!r} and {END!r}; put them where to write."
        )
    if figure is not None:
        link = Path(os.path.relpath(figure, page.parent)).as_posix()
        text += f"\n\n![Time of everyone relative to {EAGER.title} at the deepest level]({link})"
    page.write_text(f"{head}{START}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def draw(kept: Kept, path: Path) -> None:
    """Draw the table: a panel for each size, a mark for the median and a line for the spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = kept.sizes
    rows = order(kept, sizes)[::-1]
    figure = Figure((2.4 + 1.75 * len(sizes), 1.1 + 0.2 * len(rows)))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axis, size in zip(panels, sizes, strict=True):
        for place, row in enumerate(rows):
            if (found := figure_of(kept, size, row)) is not None:
                colour = "#0b7a75" if row.startswith("ours") else "#5b6770"
                axis.plot([found.low, found.high], [place, place], color=colour, lw=2, alpha=0.45)
                axis.plot(found.median, place, "o", color=colour, ms=4.5)
        floor = figure_of(kept, size, f"{_FLOOR}{_ends(kept)[0]}")
        if floor is not None:
            axis.axvline(floor.median, color="#b3261e", lw=1, ls="--")
        axis.axvline(1.0, color="#9aa5b1", lw=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_title(size.replace("x", "×"), fontsize=9)
        axis.tick_params(labelsize=7, length=2)
        axis.grid(visible=True, axis="y", lw=0.3, alpha=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(-0.7, len(rows) - 0.3)
    about = f"time relative to {EAGER.title}{_ends(kept)[0]}, in the same round"
    figure.supxlabel(f"{about}\ndashed: the floor of {_ends(kept)[0][2:]}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
