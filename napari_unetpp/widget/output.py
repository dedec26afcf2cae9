"""Result layers: made, placed on their image, written, refreshed, and left alone once painted.

One :class:`OutputLayers` belongs to a viewer and remembers which layers are its own. A layer
that someone painted, or whose data someone replaced, is no longer its own and is never touched
again. Everything here is called on the GUI thread, except that a run's sink is written on a
thread of the engine. This module knows layers and arrays; no engine process and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import arrange
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.widget.appearance import layer_looks, layer_names
from napari_unetpp.widget.frame import Frame, add_quietly, tell, told_of
from napari_unetpp.widget.layer_image import level_data
from napari_unetpp.widget.provenance import KEY, Provenance
from napari_unetpp.widget.redraw import Redraw
from napari_unetpp.widget.result import Result, at_sliders, channels_of
from napari_unetpp.widget.result_layers import new_layers, unwatch, update_layer, watch
from napari_unetpp.widget.screen import OnScreen
from napari_unetpp.widget.storage import MEMORY_LIMIT, Sink, make_arrays

__all__ = ["KEY", "OutputLayers", "Provenance"]

_CHUNK = {"Y": 512, "X": 512}


class OutputLayers:
    """The result layers of one viewer.

    Parameters
    ----------
    viewer : napari viewer
        Layers are added to it.
    memory_limit : int
        Bytes of a result above which it is kept on disk.
    refresh_seconds : float
        Least time between two drawings of a layer that is being written.
    """

    def __init__(
        self, viewer: Any, *, memory_limit: int = MEMORY_LIMIT, refresh_seconds: float = 0.25
    ) -> None:
        self.viewer = viewer
        self.memory_limit = memory_limit
        self._results: list[Result] = []
        self._writing = False
        self._redraw = Redraw(self._draw, refresh_seconds)
        viewer.layers.events.removed.connect(self._removed)

    # Results of whole images

    def start(
        self, image: Any, axes: str, card: ModelCard, kind: str, provenance: Provenance
    ) -> tuple[Any, Sink]:
        """Return the layer that a run fills, and the sink that it writes into.

        The own layer of an earlier run on this image is used again where its shape still
        fits: it keeps what is in it if it was made with the same model, level and threshold,
        and is cleared otherwise. It cannot be painted while the run goes on.

        Parameters
        ----------
        image : napari Image layer
            Where it lies, its result lies.
        axes : str
            A letter for each axis of its array.
        card : ModelCard
            The model: classes, names, colours.
        kind : {"labels", "probabilities", "instances"}
            What will be written.
        provenance : Provenance
            Goes into ``layer.metadata["napari_unetpp"]``.

        Returns
        -------
        layer
            The first one where there are several (probabilities of classes).
        Sink
            Has the axes, shape and dtype of ``output_axes``; written from any thread.
        """
        out_axes, shape, dtype = output_axes(Image(level_data(image), axes), card, kind)
        frame = Frame(image, axes)
        plain = [n for a, n in zip(out_axes, shape, strict=True) if a != "C"]
        sizes = dict(zip(out_axes.replace("C", ""), plain, strict=True)) | {"C": 1}
        array_shape = tuple(sizes[a] for a in frame.letters)
        count = len(layer_names("", card, kind, live=False))
        result = self._own(image, kind, live=False)
        if result is not None and not result.fits(count, array_shape):
            self._forget(result)
            result = None
        if result is None:
            result = Result(image, kind, False, card)
            self._results.append(result)
        before = told_of(result.layers[0]) if result.layers else None
        told: dict[str, Any] = {**provenance.to_json(), "complete": False}
        if result.layers and result.arrays[0].dtype == dtype and provenance.continues(before):
            if before and "storage" in before:
                told["storage"] = before["storage"]
        else:
            chunks = [
                _CHUNK.get(a, 32 if a == "Z" and card.axes == "ZYX" else 1) for a in frame.letters
            ]
            result.arrays, folder = make_arrays(
                count, array_shape, dtype, chunks, self.memory_limit
            )
            if folder is not None:
                told["storage"] = {
                    "folder": str(folder),
                    "note": "temporary, removed when the layer or napari is closed: save the layer",
                }
        same_model = before is not None and before.get("model") == provenance.model
        self._update(result, card, frame.placed(), told, restyle=not same_model)
        result.sink = Sink(result.arrays, frame.letters, out_axes)
        result.handle = result.layers[0]
        result.make = {"placing": frame.placed(), "told": told}
        for layer in result.layers:
            layer.editable = False
        return result.handle, result.sink

    def refresh(self, layer: Any, region: Sequence[slice] | None = None) -> None:
        """Draw a layer that is being written, soon: at most four times a second.

        Parameters
        ----------
        layer : napari layer
            From :meth:`start`.
        region : sequence of slice, optional
            What was written, in the axes of the sink; nothing is drawn for a part that the
            sliders do not show.
        """
        result = self._of_handle(layer)
        if result is None:
            return
        seen = region is None or result.sink is None or not result.layers
        if not seen and not at_sliders(self.viewer, result.layers[0], result.sink, region):
            return
        self._redraw.ask(result)

    def finish(self, layer: Any, result: Any) -> None:
        """Draw a layer for the last time, say how the run ended, and let people paint it.

        Parameters
        ----------
        layer : napari layer
            From :meth:`start`.
        result : dict or None
            What the run tells about itself; None if it was cancelled or failed.
        """
        found = self._of_handle(layer)
        if found is None:
            return
        if not found.layers:
            self._make_again(found)
        self._redraw.forget(found)
        found.handle = found.make = None
        for own in found.layers:
            ending: dict[str, Any] = {"complete": result is not None}
            if result is not None:
                ending["result"] = dict(result)
            tell(own, {**told_of(own), **ending})
            own.editable = True
            own.refresh()

    # What is on screen

    def show_view(
        self,
        image: Any,
        shown: OnScreen,
        kind: str,
        data: NDArray[Any],
        card: ModelCard,
        provenance: Provenance,
    ) -> Any:
        """Show the result of what is on screen, in a layer of just that size.

        Parameters
        ----------
        image : napari Image layer
            What was predicted.
        shown : OnScreen
            The part of it.
        kind : {"labels", "probabilities", "instances"}
            A live layer of another kind is hidden.
        data : ndarray
            For labels and instances: the shape of the region (axes of length 1 may lack). For
            probabilities: channels first, all of the network's or those of the result.
        card, provenance
            See :meth:`start`.

        Returns
        -------
        layer
            The first one where there are several.
        """
        for other in self._live(image):
            if other.kind != kind:
                other.rest()
        frame = Frame(image, shown.source.axes)
        lengths = [stop - start for start, stop in shown.region]
        blocks = list(channels_of(data, card)) if kind == "probabilities" else [data]
        wanted = len(layer_names("", card, kind, live=True))
        if len(blocks) != wanted or any(b.size != np.prod(lengths) for b in blocks):
            raise InputError(
                f"a view of {lengths} needs {wanted} such array(s) of {kind}, got {data.shape}; "
                "show what was computed for this view."
            )
        arrays = [arrange(b.reshape(lengths), shown.axes, frame.letters) for b in blocks]
        result = self._own(image, kind, live=True)
        fits = result is not None and len(result.layers) == wanted
        if result is not None and not (fits and result.layers[0].ndim == arrays[0].ndim):
            self._take_away(result)
            result = None
        if result is None:
            result = Result(image, kind, True, card)
            self._results.append(result)
        same = bool(result.arrays) and all(
            a.shape == b.shape and a.dtype == b.dtype
            for a, b in zip(arrays, result.arrays, strict=True)
        )
        if same:
            for new, kept in zip(arrays, result.arrays, strict=True):
                np.copyto(kept, new)
        else:
            result.arrays = [np.array(a) for a in arrays]
        before = told_of(result.layers[0]) if result.layers else {}
        self._update(
            result,
            card,
            frame.placed(shown),
            provenance.to_json(),
            restyle=before.get("model") != provenance.model,
        )
        result.wake()
        return result.layers[0]

    def hide_view(self, image: Any) -> None:
        """Hide the live layers of an image until there is a view of it again.

        napari takes long to make and to remove a layer (tenths of a second), and almost no
        time to hide one.
        """
        for result in self._live(image):
            result.rest()

    def drop_view(self, image: Any) -> None:
        """Take the live layers of an image away; a painted one stays."""
        for result in self._live(image):
            self._take_away(result)

    # All of them

    def layers_of(self, image: Any) -> list[Any]:
        """Return the own result layers of an image, live ones included."""
        return [layer for r in self._results if r.image is image for layer in r.layers]

    def toggle(self, image: Any) -> bool:
        """Hide the results of an image, or show again what was hidden; return which."""
        results = [r for r in self._results if r.image is image and r.layers and not r.resting]
        visible = [layer for r in results for layer in r.layers if layer.visible]
        for result in results:
            if visible:
                result.hidden = [layer for layer in result.layers if layer.visible]
                for layer in result.hidden:
                    layer.visible = False
            else:
                for layer in result.hidden or result.layers[:1]:
                    if layer in result.layers:
                        layer.visible = True
                result.hidden = []
        return not visible

    def close(self) -> None:
        """Let go of the viewer; the layers stay."""
        self._redraw.stop()
        self.viewer.layers.events.removed.disconnect(self._removed)
        for result in list(self._results):
            self._forget(result)

    # Layers

    def _update(
        self,
        result: Result,
        card: ModelCard,
        placing: dict[str, Any],
        told: dict[str, Any],
        *,
        restyle: bool,
    ) -> None:
        """Make a result's layers, or bring them up to date with its arrays."""
        names = layer_names(result.image.name, card, result.kind, live=result.live)
        if not result.layers:
            made = new_layers(result.kind, result.arrays, names, card, placing, told)
            for layer in made:
                watch(layer, self._touched)
                result.layers.append(layer)
                add_quietly(self.viewer, layer)
            return
        old = layer_names(result.image.name, result.card, result.kind, live=result.live)
        looks = layer_looks(card, result.kind) if restyle else [{}] * len(names)
        result.card = card
        parts = zip(result.layers, result.arrays, looks, old, names, strict=True)
        with self._own_writing():
            for layer, array, look, before, name in parts:
                update_layer(layer, array, placing, told, look)
                if layer.name.startswith(before):
                    layer.name = name

    def _own(self, image: Any, kind: str, *, live: bool) -> Result | None:
        for r in self._results:
            if r.image is image and r.kind == kind and r.live == live and r.make is None:
                return r
        return None

    def _live(self, image: Any) -> list[Result]:
        return [r for r in self._results if r.image is image and r.live]

    def _of_handle(self, layer: Any) -> Result | None:
        return next((r for r in self._results if r.handle is layer and layer is not None), None)

    def _take_away(self, result: Result) -> None:
        layers = list(result.layers)
        self._forget(result)
        for layer in layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _forget(self, result: Result) -> None:
        """Own a result no longer: its layers are the user's."""
        for layer in result.layers:
            layer.editable = True
            unwatch(layer, self._touched)
        if result in self._results:
            self._results.remove(result)
        self._redraw.forget(result)

    def _draw(self, result: Result) -> None:
        if not result.layers and result.make is not None:
            self._make_again(result)
        for layer in result.layers:
            layer.refresh(thumbnail=False, highlight=False, extent=False)

    # Events

    @contextmanager
    def _own_writing(self) -> Iterator[None]:
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    def _touched(self, event: Any) -> None:
        """Leave a layer alone from now on: someone painted it or gave it other data."""
        if self._writing:
            return
        layer = event.source
        result = next((r for r in self._results if layer in r.layers), None)
        if result is None:
            return
        self._forget(result)
        if result.make is not None and result.sink is not None:
            # A run is writing into it: it goes on in copies, for which a layer is made.
            result.sink.detach()
            result.layers, result.arrays = [], list(result.sink.arrays)
            self._results.append(result)

    def _make_again(self, result: Result) -> None:
        assert result.make is not None
        self._update(result, result.card, **result.make, restyle=True)
        for layer in result.layers:
            layer.editable = False

    def _removed(self, event: Any) -> None:
        layer = event.value
        for result in list(self._results):
            if layer in result.layers:
                result.layers.remove(layer)
                if not result.layers or not result.live:
                    self._forget(result)
            elif layer is result.image and not result.live and result.make is None:
                self._forget(result)
