"""Make the pictures of the napari plug-in that the documentation shows.

    xvfb-run -a -s "-screen 0 1600x1200x24" .venv/bin/python scripts/screenshots.py

A real window with the real engine and the bundled models; nothing is drawn afterwards. Needs a
screen, real or virtual. Look at what it made: a picture that is ugly or unclear is a defect.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.settings import get_settings
from PIL import Image as Picture
from qtpy.QtWidgets import QApplication, QWidget
from scipy import ndimage

from napari_unetpp.core.data import phantoms
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.figures import in_words
from napari_unetpp.widget.screen import camera_of

ROOT = Path(__file__).resolve().parent.parent
SIZE = (1280, 800)
LONGEST_WAIT = 300.0


def pump(done: Callable[[], bool], seconds: float = LONGEST_WAIT) -> None:
    """Run the event loop until something is so, or for some seconds."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def rest(seconds: float = 0.6) -> None:
    """Let the window draw itself."""
    pump(lambda: False, seconds)


class Scene:
    """A viewer with the dock, and a camera for its window."""

    def __init__(
        self, folder: Path, sample: str, *, theme: str = "dark", live: bool = True
    ) -> None:
        get_settings().appearance.theme = theme
        self.folder = folder
        self.viewer: Any = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        if sample:
            for layer in self.viewer.open_sample("napari-unetpp", sample):
                if layer.name.endswith("truth"):
                    self.viewer.layers.remove(layer)
        self.dock = UNetPPWidget(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name="UNet++")
        self.dock.panel.set_live(live)
        rest()

    def part(self, name: str) -> Any:
        """Return a control of the panel."""
        return self.dock.findChild(QWidget, name)

    def live(self, level: int) -> None:
        """Wait until a level of what is on screen is there, and nothing goes on."""
        view = self.dock.live
        pump(lambda: view.job is None and view.view is not None and level in view.view.levels)
        # Once more: what is measured the first time holds the loading of everything.
        camera_of(self.viewer).zoom *= 1.02
        rest(0.5)
        pump(lambda: view.job is None and view.view is not None and level in view.view.levels)
        rest()

    def ready(self) -> None:
        """Wait until the worker has its model."""
        pump(lambda: "starting" not in self.part("device_label").text())
        rest()

    def run(self) -> None:
        """Press Run and wait for the end."""
        self.part("run_button").click()
        pump(lambda: not self.dock.runner.running)
        rest()

    def take(self, name: str) -> None:
        """Write a picture of the window."""
        rest()
        target = self.folder / f"napari-{name}.png"
        shot = self.viewer.screenshot(canvas_only=False, flash=False)
        whole = Picture.fromarray(np.ascontiguousarray(shot[..., :3]))
        # A palette is a quarter of the size. Of the ways to choose it this one keeps colours that
        # are rare, as those of the curve are.
        small = whole.quantize(255, method=Picture.Quantize.MAXCOVERAGE, dither=Picture.Dither.NONE)
        small.save(target, optimize=True)
        print(target, f"{target.stat().st_size / 1e3:.0f} kB")

    def stroke(self, value: int, *pixels: tuple[float, float]) -> None:
        """Paint a line on the painted layer, as the mouse would."""
        layer = self.dock.teach.painting.layer
        layer.selected_label = value
        with layer.block_history():
            for start, stop in pairwise(pixels):
                layer._draw(value, start, stop)

    def settle(self) -> None:
        """Wait until the chosen model's view is there."""
        live = self.dock.live
        rest(0.3)
        pump(lambda: live.job is None and live.view is not None and bool(live.view.shown))
        rest(0.3)

    def close(self) -> None:
        """Close the window and end the worker."""
        self.dock.shut()
        self.viewer.close()
        rest(0.2)


def gray_cells() -> np.ndarray:
    """Return gray cells among bright debris, which the bundled model takes for nuclei."""
    shape = (300, 360)
    cells = phantoms.nuclei_2d(shape, count=60, seed=4).labels > 0
    debris = phantoms.nuclei_2d(shape, count=60, seed=54, spacing=(0.6, 0.6)).labels > 0
    light = ndimage.gaussian_filter(40.0 + 60.0 * cells + 140.0 * (debris & ~cells), 0.7)
    return (light + np.random.default_rng(4).normal(size=shape) * 2).astype(np.float32)


def teach(folder: Path, theme: str, names: tuple[str, ...], seconds: float) -> None:
    """Take pictures before, during and after a fine-tuning, and of what comes then."""
    scene = Scene(folder, "", theme=theme, live=True)
    viewer, dock = scene.viewer, scene.dock
    image = gray_cells()
    viewer.add_image(image, name="gray cells")
    dock.teach.fold.expand()
    dock.panel.set_level(4)
    rest()
    viewer.reset_view()
    scene.ready()
    scene.live(4)
    viewer.reset_view()
    scene.settle()
    scene.part("new_painted_button").click()
    rest()
    smooth = ndimage.gaussian_filter(image, 1)
    gray, bright = (smooth > 80) & (smooth < 115), smooth > 150
    for mask, value, count in ((gray, 2, 5), (bright, 1, 4), (smooth < 50, 1, 2)):
        pieces, number = ndimage.label(ndimage.binary_erosion(mask, iterations=2))
        sizes = np.bincount(pieces.ravel())[1:]
        for piece in np.argsort(-sizes)[:count] + 1 if number else ():
            deep = ndimage.distance_transform_edt(np.pad(pieces == piece, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(int(deep.argmax()), deep.shape)
            reach = max(2.0, float(deep.max()))
            scene.stroke(value, (y - reach / 2, x - reach), (y, x), (y + reach / 3, x + reach))
    pump(lambda: len(dock.teach.painting.counts or ()) == 2, 10)
    column = dock.findChild(QWidget, "unetpp_column")
    column.verticalScrollBar().setValue(0)
    if "before" in names:
        scene.take("teach-before")
    dock.teach.form.budget.set_choices([(in_words(seconds), seconds)], seconds)
    scene.part("finetune_button").click()
    column.verticalScrollBar().setValue(column.verticalScrollBar().maximum())
    plot = scene.part("curve_plot")
    pump(lambda: max((s for s, _ in plot.losses), default=0) > seconds * 0.6, seconds * 4)
    column.verticalScrollBar().setValue(column.verticalScrollBar().maximum())
    if "during" in names:
        scene.take("teach-during")
    pump(lambda: not dock.teach.tuning.running)
    scene.settle()
    rest()
    column.verticalScrollBar().setValue(column.verticalScrollBar().maximum())
    for name in names:
        if name.startswith("after"):
            scene.take(f"teach-{name}")
    if "next" in names:
        scene.part("next_region_button").click()
        pump(lambda: bool(dock.teach.suggesting.places), 60)
        scene.part("uncertainty_check").click()
        pump(lambda: dock.teach.suggesting.map.layer is not None, 60)
        scene.settle()
        scene.take("teach-next")
    scene.close()


def main() -> None:
    """Make all pictures, or those of one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", choices=["dock", "teach"], help="one part of them")
    parser.add_argument("--seconds", type=float, default=30.0, help="for the fine-tuning")
    options = parser.parse_args()
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    if options.only != "teach":
        dock_pictures(folder)
    if options.only != "dock":
        for theme, names in (
            ("dark", ("before", "during", "next")),
            ("light", ("after-light",)),
        ):
            with tempfile.TemporaryDirectory() as own:
                # Neither models nor paint of who runs this.
                os.environ["NAPARI_UNETPP_DATA"] = os.environ["NAPARI_UNETPP_CONFIG"] = own
                teach(folder, theme, names, options.seconds)


def dock_pictures(folder: Path) -> None:
    """Make the pictures of the upper part of the dock."""
    scene = Scene(folder, "", live=False)
    scene.ready()
    scene.take("empty")
    scene.close()

    scene = Scene(folder, "nuclei_2d", live=True)
    scene.dock.panel.set_output("instances")
    scene.dock.panel.set_level(4)
    scene.ready()
    scene.live(4)
    pump(lambda: bool(scene.dock.live.view and scene.dock.live.view.shown))
    scene.take("live")
    scene.close()

    scene = Scene(folder, "nuclei_timelapse", live=False)
    scene.dock.panel.set_level(4)
    scene.dock.panel.set_region("all")
    scene.ready()
    # The sample would be over before a picture is taken.
    layer = scene.dock.selection.layer
    layer.data = np.tile(layer.data, (1, 6, 6))
    scene.viewer.reset_view()
    scene.part("run_button").click()
    pump(lambda: scene.part("progress_bar").value() >= 6 or not scene.dock.runner.running)
    scene.take("run")
    scene.dock.cancel()
    pump(lambda: not scene.dock.runner.running)
    scene.close()

    scene = Scene(folder, "stained_tissue", theme="light", live=False)
    scene.dock.panel.set_output("instances")
    scene.dock.panel.set_region("all")
    scene.ready()
    scene.run()
    scene.take("light")
    scene.close()

    scene = Scene(folder, "ct_phantom", live=False)
    scene.dock.selection.choose_model("ct-head-neck")
    scene.dock.selection.refresh_models()
    scene.ready()
    scene.dock.panel.set_region("all")
    scene.viewer.dims.set_current_step(0, 34)
    scene.run()
    scene.take("ct")
    scene.close()


if __name__ == "__main__":
    main()
