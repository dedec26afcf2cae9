"""Which layer is painted for the chosen image, what its values mean, and what is missing.

Follows the viewer's layers and the chosen image and model. Makes painted layers; never writes
into one. Knows the section's form and the layers; no engine process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from napari_unetpp.core.errors import InputError
from napari_unetpp.engine.protocol import LayerSource
from napari_unetpp.widget.class_table import ClassRow
from napari_unetpp.widget.layer_image import level_data
from napari_unetpp.widget.paint_count import PaintCount
from napari_unetpp.widget.painted_layer import (
    PAINTED,
    class_rows,
    dress,
    grid_shape,
    is_candidate,
    is_own,
    make_painted,
    own_classes,
    painted_source,
    write_classes,
)
from napari_unetpp.widget.provenance import KEY
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.teach_form import TeachForm

if TYPE_CHECKING:
    import napari

NO_IMAGE = "There is no image: open one, or a sample."
NO_MODEL = "There is no model: choose one."
NO_LAYER = "There is no painted layer: press New and paint a few strokes."


class Painting:
    """The painted layer of the chosen image.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers are offered.
    form : TeachForm
        Where they are chosen.
    selection : Selection
        The image and the model.
    relay : Relay
        To the GUI thread.

    Attributes
    ----------
    layer : napari Labels layer, optional
        The one that is chosen.
    listeners : list of callable
        Called when the layer, its paint or its classes changed.
    made : list of callable
        Called with a painted layer and its image, when it is made or chosen to be painted.
    """

    def __init__(
        self, viewer: napari.Viewer, form: TeachForm, selection: Selection, relay: Relay
    ) -> None:
        self.viewer, self.form, self.selection, self.relay = viewer, form, selection, relay
        self.layer: Any = None
        self.listeners: list[Callable[[], None]] = []
        self.made: list[Callable[[Any, Any], None]] = []
        self._of_image: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._image_of: WeakKeyDictionary[Any, ReferenceType[Any]] = WeakKeyDictionary()
        self._count = PaintCount(relay, self._counted)
        layers = viewer.layers.events
        self._emitters = [layers.inserted, layers.removed, layers.reordered]
        for emitter in self._emitters:
            emitter.connect(self._layers_changed)
        viewer.layers.selection.events.active.connect(self._active_changed)
        selection.listen(lambda what: self._selected(what))
        form.painted_changed.connect(self.choose)
        form.new_painted_clicked.connect(self.make)
        form.class_chosen.connect(self._take_class)
        form.class_renamed.connect(self._rename)
        form.add_class_clicked.connect(self.add_class)
        form.training.start.widget.changed.connect(lambda _: self.refresh())

    def start(self) -> None:
        """Fill the form with what is there."""
        self._selected("image")

    def close(self) -> None:
        """Stop following the viewer."""
        for emitter in self._emitters:
            emitter.disconnect(self._layers_changed)
        self.viewer.layers.selection.events.active.disconnect(self._active_changed)
        self._watch(None)
        self._count.close()

    # Which layer

    def candidates(self) -> list[Any]:
        """Return the layers that may hold strokes."""
        return [x for x in self.viewer.layers if is_candidate(x)]

    def choose(self, layer: Any) -> None:
        """Paint on a layer from now on; None for none."""
        image = self.selection.layer
        if image is not None and layer is not None:
            self._assign(image, layer)
        self._watch(layer)
        self.refresh()
        if layer is not None and image is not None and self.fits(layer):
            self._tell_made(layer, image)

    def make(self) -> None:
        """Make a painted layer for the chosen image, with the brush in hand."""
        selection = self.selection
        image, card = selection.layer, selection.card
        if image is None or card is None:
            return
        layer = make_painted(image, selection.axes, card, self._free_name(f"paint: {image.name}"))
        dress(layer, class_rows(layer, card, scratch=self.form.training.scratch))
        self._assign(image, layer)
        self.viewer.add_layer(layer)
        self.viewer.layers.selection.active = layer
        layer.mode = "paint"
        self.choose(layer)

    def fits(self, layer: Any) -> bool:
        """Whether a layer has the grid of the chosen image."""
        image = self.selection.layer
        if image is None:
            return False
        return tuple(level_data(layer).shape) == grid_shape(image, self.selection.axes)

    def image_of(self, layer: Any) -> Any:
        """Return the image in the viewer that a layer's strokes are on; None if nothing says."""
        kept = self._image_of.get(layer)
        image = None if kept is None else kept()
        images = self.selection.images()
        if any(x is image for x in images):
            return image
        # Paint that comes back, of a crash or an earlier dock, says its image's name.
        told = layer.metadata.get(PAINTED)
        name = told.get("image") if isinstance(told, dict) else None
        return next((x for x in images if x.name == name), None)

    def _assign(self, image: Any, layer: Any) -> None:
        self._of_image[image] = layer
        if self.fits(layer):
            self._image_of[layer] = ref(image)

    def _of(self, image: Any) -> Any:
        """Return the painted layer of an image: the one chosen for it, or one made for it."""
        there = self.candidates()
        known = self._of_image.get(image)
        if any(x is known for x in there):
            return known
        fitting = [x for x in there if self.fits(x) and self.image_of(x) in (None, image)]
        own = [x for x in fitting if is_own(x)]
        named = [x for x in fitting if x.name.lower().startswith("paint")]
        return next(iter(own[::-1] + named[::-1]), None)

    def _free_name(self, name: str) -> str:
        taken = {x.name for x in self.viewer.layers}
        free, number = name, 2
        while free in taken:
            free, number = f"{name} {number}", number + 1
        return free

    def _layers_changed(self, event: Any = None) -> None:
        added = getattr(event, "value", None) if getattr(event, "type", "") == "inserted" else None
        if KEY in getattr(added, "metadata", {}):
            # A result that comes would cover the strokes.
            self.relay.post(lambda: self._lift(added))
        if self.layer is not None and all(x is not self.layer for x in self.viewer.layers):
            self._watch(None)
        self._selected("image")

    def _lift(self, result: Any) -> None:
        layers, layer = self.viewer.layers, self.layer
        if layer is not None and layer in layers and result in layers:
            above, below = layers.index(result), layers.index(layer)
            if above > below:
                layers.move(below, above + 1)

    def _active_changed(self, event: Any = None) -> None:
        active = self.viewer.layers.selection.active
        if active is self.layer or not is_candidate_of(active):
            return
        if (image := self.image_of(active)) is not None:
            # Its strokes would teach another image's pixels.
            self.selection.choose_layer(image)
        if active is not self.layer and self.fits(active):
            self.choose(active)

    def _selected(self, what: str) -> None:
        image = self.selection.layer
        if what == "image" and image is not None:
            found = self._of(image)
            if found is not None:
                self._assign(image, found)
            if found is not self.layer:
                self._watch(found)
                if found is not None:
                    self._tell_made(found, image)
        elif image is None:
            self._watch(None)
        self.refresh()

    def _watch(self, layer: Any) -> None:
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.selected_label.disconnect(self._label_taken)
            self.layer.events.name.disconnect(self._renamed)
        self.layer = layer
        self._count.watch(layer)
        if layer is not None:
            layer.events.selected_label.connect(self._label_taken)
            layer.events.name.connect(self._renamed)

    def _tell_made(self, layer: Any, image: Any) -> None:
        for listener in self.made:
            listener(layer, image)

    # Classes

    def classes(self) -> list[ClassRow]:
        """Return what the values of the layer mean."""
        painted = list(self.counts or {})
        return class_rows(
            self.layer, self.selection.card, painted, scratch=self.form.training.scratch
        )

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, without background."""
        return tuple(row.name for row in self.classes() if row.value > 1 and row.known)

    def add_class(self) -> None:
        """Add a class after the others, and let the person write its name."""
        if self.layer is None:
            return
        names = list(self.class_names())
        title, number = f"class {len(names) + 1}", len(names) + 1
        while title in names:
            number += 1
            title = f"class {number}"
        self._keep([*names, title])
        self._take_class(len(names) + 2)
        self.form.edit_class(len(names) + 2)

    def _rename(self, value: int, name: str) -> None:
        names = list(self.class_names())
        if name in names or name == "background":
            self.form.set_status(
                f"There is a class {name} already: choose another name.", "warning"
            )
            self.form.classes.rows = []  # so that the old name is shown again
            self.refresh()
            return
        if 2 <= value < len(names) + 2:
            names[value - 2] = name
            self._keep(names)

    def _keep(self, names: list[str]) -> None:
        # What the layer named beyond, as another model's classes, stays.
        write_classes(self.layer, [*names, *own_classes(self.layer)[len(names) :]])
        self.refresh()

    def _take_class(self, value: int) -> None:
        """Paint with a class: the row that was clicked."""
        if self.layer is not None and self.layer.selected_label != value:
            self.layer.selected_label = value

    def _label_taken(self, event: Any = None) -> None:
        if self.layer is not None:
            self.form.classes.set_current(int(self.layer.selected_label))

    def _renamed(self, event: Any = None) -> None:
        self.refresh()

    # What is there, and what is missing

    @property
    def counts(self) -> dict[int, int] | None:
        """Painted pixels by value; None where they are not known."""
        return self._count.counts

    def source(self) -> LayerSource:
        """Return the paint as the engine wants it.

        Raises
        ------
        InputError
            If it has another shape than the image.
        """
        return painted_source(self.layer, self.selection.layer, self.selection.axes)

    def problem(self) -> str:
        """Return why there is nothing to learn from, in one sentence; empty if there is."""
        selection, card = self.selection, self.selection.card
        if selection.layer is None:
            return NO_IMAGE
        if card is None:
            return NO_MODEL
        missing = [a for a in card.axes if a not in selection.axes]
        if missing:
            return (
                f"Model {card.name} needs axes {card.axes}, the image has {selection.axes}: set "
                "the image's axes, or choose another model."
            )
        if self.layer is None:
            return NO_LAYER
        try:
            self.source()
        except InputError as error:
            return str(error)
        rows = self.classes()
        if self.counts is not None and not self.counts:
            return (
                f"Nothing is painted: paint a stroke of background (1) and one of {_first(rows)}."
            )
        if unknown := [row.value for row in rows if not row.known]:
            last = [row for row in rows if row.known][-1]
            return (
                f"Label {unknown[0]} is painted, but the classes end with {last.value} "
                f"({last.name}): add classes up to it, or repaint it."
            )
        return ""

    def hint(self) -> str:
        """Return what would make the paint better; empty where there is no more to say."""
        if self.problem() or self.counts is None:
            return ""
        if 1 not in self.counts:
            return "No background (1) is painted yet: paint what is none of the classes, too."
        if set(self.counts) == {1}:
            return f"Only background is painted: paint a stroke of {_first(self.classes())}, too."
        return ""

    def refresh(self) -> None:
        """Show what is there now."""
        form, image = self.form, self.selection.layer
        form.set_painted([(x.name, x) for x in self.candidates()], self.layer)
        reason = NO_IMAGE if image is None else NO_MODEL if self.selection.card is None else ""
        form.set_new_allowed(reason)
        rows = self.classes()
        form.show_classes(rows, "" if self.layer is not None else NO_LAYER)
        form.classes.set_counts(self.counts if self.layer is not None else {})
        if self.layer is not None:
            if is_own(self.layer):
                dress(self.layer, [row for row in rows if row.known])
            form.classes.set_current(int(self.layer.selected_label))
        for listener in self.listeners:
            listener()

    def _counted(self) -> None:
        self.refresh()


def is_candidate_of(layer: Any) -> bool:
    """Whether a layer that became active was made to be painted on."""
    return layer is not None and is_candidate(layer) and is_own(layer)


def _first(rows: list[ClassRow]) -> str:
    row = next((r for r in rows if r.value == 2), None)
    return f"{row.name} (2)" if row is not None else "a class (2)"
