"""Make the pictures of the napari plug-in that the documentation shows.

    xvfb-run -a -s "-screen 0 1600x1200x24" .venv/bin/python scripts/screenshots.py

A real window with the real engine and the bundled models; nothing is drawn afterwards. Needs a
screen, real or virtual. Look at what it made: a picture that is ugly or unclear is a defect.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from matplotlib import image as images
from napari.settings import get_settings
from qtpy.QtWidgets import QApplication, QWidget

from napari_unetpp.widget.dock import UNetPPWidget
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
        images.imsave(target, np.ascontiguousarray(shot[..., :3]))
        print(target)

    def close(self) -> None:
        """Close the window and end the worker."""
        self.dock.shut()
        self.viewer.close()
        rest(0.2)


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)

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
