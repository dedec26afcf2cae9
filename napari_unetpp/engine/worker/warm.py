"""What stays in the worker between jobs: models, fitted intensities, the last view.

Knows the core; no message and no process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.events import Note
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.source import Source
from napari_unetpp.engine.protocol import EngineError, ModelRequest

if TYPE_CHECKING:
    from napari_unetpp.engine.worker.views import View

MODELS = 2
FITS = 64

Key = tuple[Any, ...]


class Warm:
    """What is kept.

    Attributes
    ----------
    view : View, optional
        The last view; its nodes are what going deeper starts from.
    nodes : int
        Nodes of networks that were computed so far.
    drawing : Lock
        Held while a model file is read or replaced, and while a network is made: its weights
        are drawn first, from one generator for all.
    """

    def __init__(self) -> None:
        self.view: View | None = None
        self.nodes = 0
        self.drawing = threading.Lock()
        self._runners: OrderedDict[Key, Runner] = OrderedDict()
        self._fits: OrderedDict[Key, tuple[list[Normaliser], list[Note]]] = OrderedDict()
        self._threads = torch.get_num_threads()

    def runner(self, request: ModelRequest, check: Callable[[], None]) -> tuple[Runner, Key]:
        """Return the model on its device, loaded if it is not there or its file changed.

        Parameters
        ----------
        request : ModelRequest
            Which one.
        check : callable
            Called before every node that is computed.

        Returns
        -------
        Runner
            The model.
        tuple
            Names it in keys of what is kept.
        """
        self.use_threads(request)
        key = _key(request)
        runner = self._runners.get(key)
        if runner is None:
            device = choose_device(request.device, request.precision)
            try:
                with self.drawing:
                    model = load_model(request.model)
            except (UNetPPError, OSError) as error:
                raise EngineError(str(error), "model") from error
            # A file that is written anew while it is fine-tuned must not push others out.
            for old in [k for k in self._runners if k[0] == key[0] and k[1:3] != key[1:3]]:
                self._forget(old)
            runner = self._runners[key] = Runner(model, device, request.backend)
            while len(self._runners) > MODELS:
                self._forget(next(iter(self._runners)))
        self._runners.move_to_end(key)

        def before_node() -> None:
            check()
            self.nodes += 1

        runner.interrupt = before_node
        return runner, key

    def use_threads(self, request: ModelRequest) -> None:
        """Set how many threads of the CPU the calling thread computes with."""
        threads = request.threads or self._threads
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _forget(self, key: Key) -> None:
        del self._runners[key]
        if self.view is not None and self.view.key[0] == key:
            self.view = None

    def fitted(
        self, source: Source, image: Image, key: str, channel: int | None, model: Key
    ) -> tuple[list[Normaliser], list[Note], bool]:
        """Return the intensity rule fitted to the whole image, from memory if it has a key.

        Returns
        -------
        list of Normaliser
            One for each channel of the network.
        list of Note
            What the user should know about them.
        bool
            Whether they were fitted just now, and not told before.
        """
        # What it is fitted by, and not which file: a model that is fine-tuned keeps the rule.
        card = source.card
        rule = (card.axes, card.network.in_channels, card.normalisation)
        place = (key, image.axes, image.shape, channel, rule)
        known = self._fits.get(place) if key else None
        if known is not None:
            return *known, False
        found = source.fit()
        if key:
            self._fits[place] = found
            while len(self._fits) > FITS:
                self._fits.popitem(last=False)
        return *found, True


def _key(request: ModelRequest) -> Key:
    path = Path(request.model)
    try:
        status = path.stat()
    except OSError:
        return (str(path), 0, 0, request.device, request.precision, request.backend)
    return (
        str(path.resolve()), status.st_mtime_ns, status.st_size, request.device,
        request.precision, request.backend,
    )  # fmt: skip
