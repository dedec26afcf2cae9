"""Run: the chosen region through the model, tile by tile into a result layer.

One run at a time. Ends in one visible state: done, cancelled or failed with the reason. Knows
the panel, the engine's client and the output layers; computes nothing itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.utils import progress

from napari_unetpp import __version__
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import Finished, Level, Noted, Progress, RunRequest, Written
from napari_unetpp.widget.figures import Figures, in_words
from napari_unetpp.widget.level_words import level_name, tiles_by_level
from napari_unetpp.widget.notify import report_error
from napari_unetpp.widget.output import OutputLayers, Provenance
from napari_unetpp.widget.panel import Panel
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.screen import on_screen, run_region, slice_region
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.stop_slider import level_at

if TYPE_CHECKING:
    import napari

TELL_SECONDS = 0.1
"""Between two changes of the progress bar: each one redraws the panel."""

WORDS = {"labels": "labels", "probabilities": "probabilities", "instances": "objects"}


class Run:
    """The Run and Cancel buttons.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose view and slice a region may be.
    panel, selection, engine, outputs, figures, relay
        The dock's parts.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        panel: Panel,
        selection: Selection,
        engine: Engine,
        outputs: OutputLayers,
        figures: Figures,
        relay: Relay,
    ) -> None:
        self.viewer, self.panel, self.selection, self.engine = viewer, panel, selection, engine
        self.outputs, self.figures, self.relay = outputs, figures, relay
        self.job: Job | None = None
        self._layer: Any = None
        self._image: Any = None
        self._model: Any = None
        self._bar: Any = None
        self._began = self._told = 0.0
        self._notes: list[str] = []
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        panel.run_clicked.connect(self.start)
        panel.cancel_clicked.connect(self.cancel)
        viewer.layers.events.removed.connect(self._removed)

    def close(self) -> None:
        """Stop following the viewer and end the run."""
        self.viewer.layers.events.removed.disconnect(self._removed)
        if self.job is not None:
            self.job.drop()
            self.job = None
        self._close_bar()

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self.job is not None

    @property
    def level(self) -> Level:
        """The level to run at."""
        return "ensemble" if self.panel.ensemble else level_at(self.panel.level)

    def problem(self) -> str:
        """Return why nothing can be run, in one sentence; empty if something can."""
        selection = self.selection
        if selection.layer is None:
            return "There is no image: open one, or a sample."
        if selection.card is None:
            return "There is no model: choose one."
        try:
            self._request()
        except UNetPPError as error:
            return str(error)
        return ""

    def pixels(self) -> int:
        """Return how many pixels (voxels) a run would take."""
        _, request, _, shape, _ = self._request()
        if request.region is None:
            return math.prod(shape)
        return math.prod(stop - start for start, stop in request.region)

    def _request(self) -> tuple[Any, RunRequest, str, tuple[int, ...], Any]:
        """Return source and request for what the panel says.

        Raises
        ------
        UNetPPError
            If the image does not fit the model, or nothing is on screen.
        """
        selection, panel = self.selection, self.panel
        card = selection.card
        assert card is not None
        source = selection.source()
        image = Image(source.data, source.axes, source.spacing, source.unit, source.affine)
        missing = [a for a in card.axes if a not in image.axes]
        if missing:
            raise UNetPPError(
                f"Model {card.name} needs axes {card.axes}, the image has {image.axes}: set the "
                "image's axes, or choose another model."
            )
        axes, shape, dtype = output_axes(image, card, panel.output)
        if "C" in axes:
            at = axes.index("C")
            axes, shape = axes.replace("C", ""), shape[:at] + shape[at + 1 :]
        region = self._region(axes, shape)
        request = RunRequest(
            selection.model,
            self.level,
            panel.output,
            panel.threshold,
            selection.channel,
            panel.min_size if panel.output == "instances" else None,
            None,
            region,
        )
        return source, request, axes, shape, dtype

    def _region(self, axes: str, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
        """Return the region in the result's axes, None for everything."""
        selection, which = self.selection, self.panel.region
        card = selection.card
        assert card is not None
        if which == "all":
            return None
        if which == "slice":
            region = slice_region(self.viewer, selection.layer, selection.axes, axes, card.axes)
            if isinstance(region, str):
                raise UNetPPError(region)
            return region
        screen = on_screen(
            self.viewer, selection.layer, selection.axes, model_axes=card.axes, max_pixels=2**62
        )
        if isinstance(screen, str):
            raise UNetPPError(screen)
        source = selection.source()
        return run_region(screen, source.data.shape, axes)

    def start(self) -> None:
        """Run what the panel says."""
        if self.running:
            return
        if problem := self.problem():
            self.panel.set_status(problem, "warning")
            return
        selection, panel = self.selection, self.panel
        source, request, _, _, _ = self._request()
        card = selection.card
        assert card is not None
        provenance = Provenance(
            model=card.name,
            model_sha=selection.identity,
            level=request.level,
            threshold=panel.threshold,
            kind=request.kind,
            version=__version__,
            live=False,
        )
        try:
            layer, sink = self.outputs.start(
                selection.layer, selection.axes, card, request.kind, provenance
            )
        except (UNetPPError, OSError, MemoryError) as error:
            report_error(panel, f"there is no room for the result ({error}); free some.")
            return
        for callback in self.before:
            callback()
        self._layer, self._image, self._notes = layer, selection.layer, []
        self._began, self._told = time.monotonic(), 0.0
        panel.set_running(True)
        panel.set_status("starting …", "busy")
        self._bar = progress(total=0, desc=f"UNet++ {card.name}")
        self._model = request.model
        self.job = job = self.engine.run(source, request, sink)
        self.relay.follow(job, lambda event: self._heard(job, event))

    def cancel(self) -> None:
        """End the run; what is done stays in the layer."""
        if self.job is not None:
            self.panel.set_status("cancelling …", "busy")
            self.job.cancel()

    def _removed(self, event: Any) -> None:
        """End a run whose image or result was taken away."""
        if self.job is not None and event.value in (self._image, self._layer):
            what = "image" if event.value is self._image else "result"
            self._notes.append(f"the {what} was removed")
            self.cancel()

    def _heard(self, job: Job, event: Any) -> None:
        if job is not self.job:
            return
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Written):
            self.outputs.refresh(self._layer, event.region)
        elif isinstance(event, Noted):
            self._notes.append(event.message)
        elif isinstance(event, Finished):
            self._finished(event)

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        if event.done < event.total and now - self._told < TELL_SECONDS:
            return
        self._told = now
        self.panel.set_progress(event.done, event.total)
        spent = time.monotonic() - self._began
        left = spent / event.done * (event.total - event.done) if event.done else 0.0
        self.panel.set_status(
            f"tile {event.done} of {event.total}, {level_name(event.level)}, {in_words(left)} left",
            "busy",
        )
        if self._bar is not None:
            self._bar.total = event.total
            self._bar.update(event.done - self._bar.n)

    def _finished(self, event: Finished) -> None:
        self.job = None
        self._close_bar()
        panel = self.panel
        panel.clear_progress()
        panel.set_running(False)
        notes = "".join(f" {note[0].upper()}{note[1:].rstrip('.')}." for note in self._notes)
        if self._layer is not None and self._layer in self.viewer.layers:
            self.outputs.finish(self._layer, event.result if event.state == "done" else None)
        if event.state == "done":
            result = event.result
            self.figures.measured(
                result["level"], result["seconds"], result["megapixels"], self._model
            )
            tiles = tiles_by_level(result.get("tiles_by_level", {}))
            panel.set_status(
                f"done: {WORDS[result['kind']]} at {level_name(result['level'])} in "
                f"{in_words(result['seconds'])} on {result['device']} ({result['precision']})"
                f"{tiles and f'; {tiles}'}.{notes}",
                "info",
            )
        elif event.state == "cancelled":
            panel.set_status(f"cancelled; what was done so far stays in the layer.{notes}", "info")
        else:
            report_error(panel, f"{event.error}{notes}")
        self._layer = self._image = None
        for callback in self.after:
            callback()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
