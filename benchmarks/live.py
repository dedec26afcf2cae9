"""From a pan to L1 and to L4 on screen, beside a one-shot L4 of the same view.

A real viewer with the dock, the engine in its own process and a view of 1024 × 1024 pixels. A
pan moves the camera to a part that was not seen before; the clock runs until the layer of each
level has its pixels. The one-shot run computes the same window, halo and all, at L4 alone in the
same worker. Every round does both, on a part of the image that neither has seen. Needs a screen
(``xvfb-run -a`` where there is none). Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Spread, markdown, nuclei_pattern
from qtpy.QtWidgets import QApplication

from napari_unetpp.engine.protocol import LevelReady, ViewRequest
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.screen import camera_of

SIDE = 1024
WAIT_SECONDS = 120.0


def wait(done: Callable[[], bool]) -> None:
    """Run the event loop until something is so."""
    end = time.monotonic() + WAIT_SECONDS
    while not done():
        QApplication.processEvents()
        if time.monotonic() > end:
            raise SystemExit(f"nothing happened for {WAIT_SECONDS:g} s; is the engine running?")
        time.sleep(0.0005)


def pan_times(dock: UNetPPWidget, y: float, x: float, level: int) -> dict[int, float]:
    """Pan and return the seconds until each level is on screen."""
    shown: dict[int, float] = {}
    original = dock.outputs.show_view

    def show(*args: Any, **kwargs: Any) -> Any:
        layer = original(*args, **kwargs)
        reached = layer.metadata["napari_unetpp"]["level"]
        shown.setdefault(reached, time.perf_counter() - start)
        return layer

    dock.outputs.show_view = show  # type: ignore[method-assign]
    try:
        start = time.perf_counter()
        camera_of(dock.viewer).center = (0.0, y, x)
        wait(lambda: level in shown and dock.live.job is None)
    finally:
        del dock.outputs.show_view
    return shown


def one_shot(dock: UNetPPWidget, region: tuple[tuple[int, int], ...], level: int) -> float:
    """Return the seconds from asking for one level of a view to having its probabilities."""
    request = ViewRequest(
        dock.selection.model,
        level,
        region,
        dock.selection.channel,
        tuple(k for k in range(1, level)),
    )
    arrived: list[float] = []

    def heard(event: Any) -> None:
        if isinstance(event, LevelReady):
            arrived.append(time.perf_counter() - start)

    start = time.perf_counter()
    job = dock.engine.view(dock.selection.source(), request)
    job.listen(heard)
    job.wait(WAIT_SECONDS)
    return arrived[-1]


def measure(rounds: int, side: int, level: int) -> dict[str, Any]:
    """Return seconds of every round and the ratios to the one-shot run of the same round."""
    import napari

    viewer = napari.Viewer(show=True)
    pattern = nuclei_pattern()
    repeats = 2 + -(-side * (2 * rounds + 3) // pattern.shape[1])
    image = np.tile(pattern, (2 + -(-side // pattern.shape[0]), repeats))
    viewer.add_image(image, name="cells")
    dock = UNetPPWidget(viewer)
    viewer.window.add_dock_widget(dock, name="UNet++")
    viewer.window.resize(side + 700, side + 300)
    dock.panel.set_level(level)
    dock.panel.set_live(True)
    QApplication.processEvents()
    # Rather a little more than the view: the canvas is seldom square.
    height, width = viewer.window._qt_viewer.canvas.size
    camera_of(viewer).zoom = (height * width) ** 0.5 / side
    middle = image.shape[0] / 2
    try:
        pan_times(dock, middle, side, level)  # torch, the model and the check of precision
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            found = pan_times(dock, middle, side * (2 * number + 2.5), level)
            assert dock.live.view is not None
            region = dock.live.view.screen.region
            shape = [stop - start for start, stop in region]
            moved = tuple(
                (start + (side if axis == len(region) - 1 else 0),
                 stop + (side if axis == len(region) - 1 else 0))
                for axis, (start, stop) in enumerate(region)
            )  # fmt: skip
            alone = one_shot(dock, moved, level)
            for reached, value in found.items():
                seconds.setdefault(f"L{reached}", []).append(value)
            seconds.setdefault("one-shot", []).append(alone)
    finally:
        dock.shut()
        viewer.close()
    base = seconds["one-shot"]
    relative = {
        name: Spread.of([s / b for s, b in zip(values, base, strict=True)])
        for name, values in seconds.items()
    }
    return {
        "view": shape,
        "rounds": rounds,
        "milliseconds": {n: Spread.of([1e3 * s for s in v]).to_json() for n, v in seconds.items()},
        "relative_to_one_shot": {n: s.to_json() for n, s in relative.items()},
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=SIDE, help="edge of the view in pixels")
    parser.add_argument("--level", type=int, default=4, choices=(1, 2, 3, 4))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.rounds, args.side, args.level)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"View of {' × '.join(map(str, found['view']))} pixels, {found['rounds']} rounds.\n")
    rows = []
    for name, row in found["relative_to_one_shot"].items():
        took = found["milliseconds"][name]
        rows.append(
            [
                name,
                str(Spread(row["median"], row["low"], row["high"])),
                f"{took['median']:.0f} ({took['low']:.0f}–{took['high']:.0f})",
            ]
        )
    print(markdown(["on screen", "relative to a one-shot L4", "ms"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
