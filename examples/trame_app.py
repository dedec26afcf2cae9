"""UNet++ on a Slicer scene in the browser: segment, paint, fine-tune.

The same ``UNetPPLib.Logic`` and engine as the 3D Slicer module, in a page of trame-slicer. It needs
an environment of its own (docs/slicer.md, "In the browser")::

    python examples/trame_app.py [CT] [--model ct-head-neck] [--port 8080]

The page has four views, the level slider, Segment, a row of classes to paint, and Fine-tune. The
engine's events are polled on the server's own loop, where the scene may be touched.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "slicer_module"))

import slicer
from trame.app import TrameApp, get_server
from trame_client.widgets.html import Div, Span
from trame_slicer.core import LayoutManager, SlicerApp
from trame_slicer.rca_view import register_rca_factories
from trame_slicer.segmentation import SegmentationEffectPaint
from trame_slicer.segmentation.paint_effect_parameters import BrushDiameterMode
from trame_vuetify.ui.vuetify3 import SinglePageLayout
from trame_vuetify.widgets.vuetify3 import VBtn, VSelect, VSlider, VSpacer, VToolbar
from UNetPPLib import Segments
from UNetPPLib.Logic import UNetPPLogic
from UNetPPLib.Parameters import BACKGROUND
from UNetPPLib.Segmenting import SegmentOptions
from UNetPPLib.Session import Session
from UNetPPLib.Teaching import TuneOptions

from napari_unetpp.core.model.cards import read_card
from napari_unetpp.engine.client import Engine

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.05
BRUSH_MM = 6.0


def module_logics(app: SlicerApp) -> Any:
    """Return what ``slicer.util`` asks for where there is no application."""
    logics = {"volumes": app.volumes_logic, "segmentations": app.segmentations_logic}
    return types.SimpleNamespace(
        **{
            name: types.SimpleNamespace(logic=lambda logic=logic: logic)
            for name, logic in logics.items()
        }
    )


class UNetPPPage(TrameApp):
    """The page.

    Parameters
    ----------
    server : trame server
        Serves it.
    volume_path : Path
        CT to show.
    model : str
        Name of a bundled model, or path of a model file.
    seconds : float
        Budget of a fine-tuning.
    """

    def __init__(self, server: Any, volume_path: Path, model: str, seconds: float) -> None:
        super().__init__(server)
        self.slicer_app = SlicerApp()
        slicer.mrmlScene = self.slicer_app.scene
        slicer.modules = module_logics(self.slicer_app)
        self.session = Session(lambda: Engine(python=sys.executable))
        self.logic = UNetPPLogic(self.session)
        self.base, self.model, self.seconds = model, model, seconds
        self.task: Any = None
        self.looked = False
        register_rca_factories(self.slicer_app.view_manager, self.server)
        self.layout = LayoutManager(
            self.slicer_app.scene, self.slicer_app.view_manager, self.server
        )
        self.layout.register_layout_dict(LayoutManager.default_grid_configuration())
        self.layout.set_layout("Axial Primary")
        self.classes = [BACKGROUND, *(c.name for c in read_card(model).classes)]
        self._fill_state()
        self._build()
        self._open(volume_path)

    # What is shown

    def _fill_state(self) -> None:
        self.state.trame__title = "UNet++"
        self.state.update(
            {
                "level": 4,
                "running": "",
                "status": "ready.",
                "painted": "nothing painted yet",
                "report": "",
                "tuned": False,
                "painting": None,
                "classes": self.classes,
            }
        )
        self.state.change("painting")(self._painting_changed)

    def _build(self) -> None:
        with SinglePageLayout(self.server) as self.ui:
            self.ui.root.theme = "dark"
            self.ui.icon.hide()
            self.ui.title.set_text("UNet++")
            with self.ui.toolbar:
                VSlider(
                    v_model=("level", 4), min=1, max=4, step=1, show_ticks="always",
                    tick_size=6, hide_details=True, prepend_icon="mdi-rabbit",
                    classes="level mx-4", style="max-width: 260px",
                    disabled=("running !== ''",), label=("`L${level}`",),
                )  # fmt: skip
                VBtn(
                    "{{ running === 'segment' ? 'Cancel' : 'Segment' }}",
                    click=self.segment, disabled=("running === 'tune'",), classes="segment mx-1",
                    variant="tonal",
                )  # fmt: skip
                VBtn("Undo", click=self.undo, disabled=("running !== ''",), classes="undo mx-1")
                VSelect(
                    v_model=("painting", None), items=("classes",), label="paint",
                    hide_details=True, density="compact", clearable=True, classes="paint mx-3",
                    style="max-width: 210px",
                )  # fmt: skip
                VBtn(
                    "{{ running === 'tune' ? 'Stop' : 'Fine-tune' }}",
                    click=self.finetune, disabled=("running === 'segment'",),
                    classes="finetune mx-1", variant="tonal",
                )  # fmt: skip
                VBtn(
                    "Revert", click=self.revert, disabled=("!tuned || running !== ''",),
                    classes="revert mx-1",
                )  # fmt: skip
                VSpacer()
            with self.ui.content:
                with VToolbar(density="compact", color="grey-darken-4", classes="px-3 text-body-2"):
                    Span("{{ status }}", classes="status")
                    VSpacer()
                    Span("{{ painted }}", classes="painted")
                    Span("{{ report }}", classes="report ml-6")
                with Div(style="height: calc(100% - 48px)"):
                    self.layout.initialize_layout_grid(self.ui)

    def _open(self, path: Path) -> None:
        """Load a volume, with a segmentation for predictions and one for strokes."""
        app = self.slicer_app
        volumes = app.io_manager.load_volumes([str(path)])
        if not volumes:
            raise SystemExit(f"{path} is no volume that Slicer reads.")
        self.volume = volumes[0]
        self.organs = self.logic.new_segmentation(self.volume)
        self.organs.GetDisplayNode().SetOpacity2DFill(0.35)
        self.strokes = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "strokes")
        Segments.make_ready(self.strokes, self.volume)
        colours = {c.name: Segments.colour_of(c) for c in read_card(self.base).classes}
        inside = self.strokes.GetSegmentation()
        self.stroke_ids = {}
        for name in self.classes:
            found = inside.AddEmptySegment("", name)
            inside.GetSegment(found).SetColor(*colours.get(name, (0.7, 0.7, 0.7)))
            self.stroke_ids[name] = found
        app.segmentation_editor.set_active_segmentation(self.strokes, self.volume)
        app.display_manager.show_volume(self.volume, vr_preset="CT-Bone", do_reset_views=True)
        app.volume_rendering.get_vr_display_node(self.volume).SetVisibility(False)

    # What is pressed

    def segment(self) -> None:
        """Segment at the slider's level, or cancel."""
        if self._stopped():
            return
        options = SegmentOptions(self.model, int(self.state.level))
        self._start("segment", self.logic.start_segment, self.volume, self.organs, options)

    def undo(self) -> None:
        """Take the last prediction back."""
        there = self.logic.undo(self.organs)
        self._say("the last prediction was taken back." if there else "nothing to take back.")

    def finetune(self) -> None:
        """Fine-tune on what is painted, or stop with the best so far."""
        if self._stopped():
            return
        self.state.painting = None
        classes = {i: name for name, i in self.stroke_ids.items() if self._count(name)}
        options = TuneOptions(self.model, classes, seconds=self.seconds)
        self._start("tune", self.logic.start_finetune, self.volume, self.strokes, options)

    def revert(self) -> None:
        """Go back to the base model."""
        self.model = self.base
        self.state.update({"tuned": False, "report": "", "status": "back to the base model."})

    def _painting_changed(self, painting: str | None = None, **_: Any) -> None:
        editor = self.slicer_app.segmentation_editor
        if not painting:
            editor.deactivate_effect()
            return
        editor.set_active_segment_id(self.stroke_ids[painting])
        effect = editor.set_active_effect_type(SegmentationEffectPaint)
        effect.set_brush_diameter(BRUSH_MM, BrushDiameterMode.Absolute)
        self._say(f"painting {painting}: drag over a slice.")

    # What goes on

    def _stopped(self) -> bool:
        """Stop what runs; return whether something did."""
        if self.task is None:
            return False
        self.task.cancel()
        return True

    def _start(self, kind: str, begin: Any, *arguments: Any) -> None:
        try:
            self.task = begin(*arguments)
        except (ValueError, OSError, MemoryError) as error:
            self._say(str(error) or "there is not enough memory.")
            return
        self.state.running = kind
        self.task.listeners.append(self._changed)
        self._changed(self.task)

    def _changed(self, task: Any) -> None:
        self._say(task.status)
        if task.running:
            return
        kind, self.task = self.state.running, None
        self.state.running = ""
        if kind == "segment" and task.state == "done" and not self.looked:
            self._look_at(task.result)
        if kind == "tune" and task.state == "done" and task.path:
            self.model = task.path
            rows = task.result.report["levels"].items()
            self.state.tuned = True
            self.state.report = "held-out IoU: " + ", ".join(
                f"L{k} {row['before']:.2f} → {row['after']:.2f}"
                for k, row in rows
                if row["before"] is not None and row["after"] is not None
            )

    def _look_at(self, result: Any) -> None:
        """Move the slices to the largest organ that was found, and show surfaces, once."""
        name = max(result["voxels"], key=result["voxels"].get)
        spans = Segments.bounding_box(
            Segments.segment_array(self.organs, result["segments"][name], self.volume)
        )
        if spans is not None:
            self.logic.jump(self.volume, [(s.start, s.stop) for s in spans])
            self.organs.CreateClosedSurfaceRepresentation()
            for view in self.slicer_app.view_manager.get_threed_views():
                view.reset_view()
            self.looked = True

    def _say(self, text: str) -> None:
        self.state.status = text

    def _count(self, name: str) -> int:
        mask = Segments.segment_array(self.strokes, self.stroke_ids[name], self.volume)
        return int(mask.sum())

    async def poll(self) -> None:
        """Hear the engine and look at the strokes, as long as the server runs."""
        modified = -1
        while True:
            with self.state:
                self.session.poll()
                now = self.strokes.GetSegmentation().GetMTime()
                if now != modified:
                    modified = now
                    counts = {n: self._count(n) for n in self.classes}
                    self.state.painted = (
                        ", ".join(f"{n} {c} voxels" for n, c in counts.items() if c)
                        or "nothing painted yet"
                    )
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End the worker."""
        self.session.close()


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="UNet++ on a Slicer scene in the browser.")
    parser.add_argument(
        "volume", nargs="?", type=Path, default=ROOT / "sample_data" / "ct_head_neck.nii.gz"
    )
    parser.add_argument("--model", default="ct-head-neck", help="name or file of a 3D model")
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of a fine-tuning")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    page = UNetPPPage(
        get_server("unetpp", client_type="vue3"), given.volume, given.model, given.seconds
    )
    tasks = set()
    page.server.controller.on_server_ready.add(
        lambda **_: tasks.add(asyncio.ensure_future(page.poll()))
    )
    try:
        page.server.start(
            port=given.port, open_browser=not os.environ.get("CI"), show_connection_info=True
        )
    finally:
        page.close()


if __name__ == "__main__":
    main()
