"""Painted layers of a viewer, kept on disk while they are painted, and offered after a crash.

One :class:`Journalling` belongs to a viewer. It never writes into a layer. On the GUI thread it
only notes which boxes changed; the rest is the recorder's, on its own thread. Knows layers and
the recorder; no engine, no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer

from napari_unetpp.core.errors import InputError, UNetPPError
from napari_unetpp.core.teach.blocks import Box
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.journal import Journal
from napari_unetpp.core.teach.places import journal_folder
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.recovered import Recovered, read_journal, recover
from napari_unetpp.core.teach.track import Track
from napari_unetpp.widget.journalled_layer import (
    INFO_EVENTS,
    box_of,
    boxes_of,
    describe,
    empty_labels,
    make_layer,
)
from napari_unetpp.widget.relay import Relay

_INFO_PAUSE = 300  # ms in which changes of a layer's looks and place are gathered


@dataclass(frozen=True, eq=False)
class Offer:
    """A painted layer of an earlier session.

    Attributes
    ----------
    recovered : Recovered
        Name, image, shape and labels.
    """

    recovered: Recovered

    @property
    def text(self) -> str:
        """One line that says what it is."""
        info = self.recovered.info
        on = f" on {info.image}" if info.image and info.image not in info.name else ""
        when = f"{self.recovered.when:%d %b %Y, %H:%M}"
        part = "" if self.recovered.complete else ", what was painted last only"
        return f"{info.name}{on} ({when}{part})"


class Journalling:
    """Keeps painted layers of a viewer.

    Parameters
    ----------
    viewer : napari viewer
        A layer that is taken out of it is let go; its journal stays and is offered.
    folder : Path, optional
        Of the journals; the user's own if None.
    on_problem : callable, optional
        Called on the GUI thread with a sentence when paint cannot be kept (a full disk, a
        folder that cannot be written to), and with an empty string when it can be again.
    recorder : Recorder, optional
        In place of one that is made.
    """

    def __init__(
        self,
        viewer: Any,
        folder: Path | None = None,
        on_problem: Callable[[str], None] | None = None,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        self.viewer = viewer
        self._on_problem = on_problem or (lambda sentence: None)
        self._relay = Relay()
        self.recorder = recorder or Recorder(folder or journal_folder(), self._problem)
        self._followed: dict[int, _Followed] = {}
        viewer.layers.events.removed.connect(self._removed)

    @property
    def folder(self) -> Path:
        """Where the journals are."""
        return self.recorder.folder

    def follow(self, layer: Any, info: LayerInfo | None = None, *, empty: bool = False) -> None:
        """Keep a layer from now on; one that is followed already gets the new description.

        Parameters
        ----------
        layer : napari Labels layer
            In memory, mapped from a file, or of any array that is painted in place.
        info : LayerInfo, optional
            Its image, axes and classes. Name, place and looks are read off the layer.
        empty : bool
            Nothing is painted yet, so it need not be read now.

        Raises
        ------
        InputError
            If it is multiscale, which napari cannot paint either.
        """
        known = info or LayerInfo(str(layer.name))
        found = self._followed.get(id(layer))
        if found is not None:
            found.tell(known)
            return
        self._begin(layer, known, empty=empty)

    def is_followed(self, layer: Any) -> bool:
        """Return whether a layer is kept."""
        return id(layer) in self._followed

    def forget(self, layer: Any, *, delete: bool = False) -> None:
        """Keep a layer no longer.

        Parameters
        ----------
        layer : napari layer
            One that is not followed is no error.
        delete : bool
            Its journal goes too: the user discarded the paint. Else it is offered the next
            time, unless nothing is painted or all of it was saved.
        """
        found = self._followed.pop(id(layer), None)
        if found is not None:
            found.end()
            self.recorder.forget(found.track, delete=delete)

    def mark(self, layer: Any) -> int | None:
        """Return what `saved` needs to know of a layer whose labels are about to be read."""
        found = self._followed.get(id(layer))
        return None if found is None else found.track.mark

    def saved(self, layer: Any, place: str = "", mark: int | None = None) -> None:
        """Say that the user saved a layer: what is painted so far need not be offered again.

        Parameters
        ----------
        layer : napari layer
            One that is not followed is no error.
        place : str
            Where it was saved.
        mark : int, optional
            From `mark`, before the labels were read: where someone painted on while they were
            saved, they count as not saved.
        """
        found = self._followed.get(id(layer))
        if found is not None:
            found.track.saved(place, mark)
            self.recorder.changed()

    def offers(self) -> list[Offer]:
        """Return painted layers of sessions that have ended, the latest first.

        Those that are open in another viewer are not among them.
        """
        return [Offer(found) for found in recover(self.folder)]

    def restore(self, offer: Offer) -> Any:
        """Make a layer again, add it to the viewer, and go on keeping it.

        Returns
        -------
        layer
            With its name, place, colours and features.

        Raises
        ------
        FileError
            If it was restored or discarded elsewhere meanwhile.
        """
        journal = Journal.claim(offer.recovered.path)
        try:
            found = read_journal(journal.path)
            array = found.labels(empty_labels(found.shape, found.dtype))
            layer = make_layer(array, found.info)
            self._begin(layer, found.info, empty=True, touched=found.boxes(), journal=journal)
        except BaseException:
            journal.close()
            raise
        self.viewer.add_layer(layer)
        return layer

    def discard(self, offer: Offer) -> None:
        """Remove what an earlier session left, for good.

        Raises
        ------
        FileError
            If it is open elsewhere by now, or cannot be removed.
        """
        offer.recovered.discard()

    def flush(self, timeout: float = 10.0) -> bool:
        """Write everything now; return whether all of it is on the disk."""
        for found in self._followed.values():
            found.tell()
        return self.recorder.flush(timeout)

    def close(self) -> None:
        """Let go of the viewer; all journals stay."""
        self.viewer.layers.events.removed.disconnect(self._removed)
        for found in self._followed.values():
            found.tell()
            found.end()
        self._followed.clear()
        self.recorder.close()
        self._relay.close()

    def _begin(
        self,
        layer: Any,
        info: LayerInfo,
        *,
        empty: bool,
        touched: list[Box] | None = None,
        journal: Journal | None = None,
    ) -> None:
        if layer.multiscale:
            raise InputError(
                f"{layer.name} has several scales, which cannot be painted; choose a labels layer "
                "of one scale."
            )
        track = self.recorder.follow(
            layer.data, describe(layer, info), empty=empty, touched=touched or (), journal=journal
        )
        self._followed[id(layer)] = _Followed(layer, info, track, self.recorder, self._problem)

    def _removed(self, event: Any) -> None:
        self.forget(event.value)

    def _problem(self, sentence: str) -> None:
        self._relay.post(lambda: self._on_problem(sentence))


class _Followed:
    """A layer that is kept: hears its events and notes what they mean."""

    def __init__(
        self,
        layer: Any,
        known: LayerInfo,
        track: Track,
        recorder: Recorder,
        on_problem: Callable[[str], None],
    ) -> None:
        self.layer, self.track = layer, track
        self._known, self._recorder, self._on_problem = known, recorder, on_problem
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_INFO_PAUSE)
        self._timer.timeout.connect(self.tell)
        listeners: dict[str, Callable[[Any], None]] = {
            "paint": self._painted,
            "labels_update": self._dabbed,
            "set_data": self._drawn,
            "data": self._replaced,
            **dict.fromkeys(INFO_EVENTS, self._looks),
        }
        # Each version of napari has events that others have not.
        self._listeners = {
            name: call for name, call in listeners.items() if name in layer.events.emitters
        }
        for name, call in self._listeners.items():
            layer.events.emitters[name].connect(call)

    def tell(self, known: LayerInfo | None = None) -> None:
        """Note what the layer is by now."""
        self._timer.stop()
        self._known = known or self._known
        self.track.set_info(describe(self.layer, self._known))
        self._recorder.changed()

    def end(self) -> None:
        """Hear the layer no longer."""
        self._timer.stop()
        for name, call in self._listeners.items():
            self.layer.events.emitters[name].disconnect(call)

    def _painted(self, event: Any) -> None:
        """Note a finished stroke, fill or polygon."""
        item = list(event.value)
        self.track.touch_later(lambda: boxes_of(item))
        self._recorder.changed()

    def _dabbed(self, event: Any) -> None:
        """Note a part of a stroke that goes on; without napari's word for it, the end tells."""
        key = getattr(self.layer, "_updated_slice", None)
        if key is not None:
            self.track.touch(box_of(key))
            self._recorder.changed()

    def _drawn(self, event: Any) -> None:
        """Look again at all that was painted: undo and redo tell no more than a drawing."""
        self.track.check()
        self._recorder.changed()

    def _replaced(self, event: Any) -> None:
        try:
            self.track.set_array(self.layer.data)
            self.tell()
        except UNetPPError as error:
            self._on_problem(str(error))

    def _looks(self, event: Any) -> None:
        self._timer.start()
